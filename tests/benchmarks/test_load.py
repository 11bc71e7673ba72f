"""The load generator against real sockets: statuses, and latency from the scheduled time."""

from __future__ import annotations

import itertools
import json
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BODY = b"the body of every request"


@contextmanager
def server(answer: Callable[[int], bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Run a server; yields its port and the requests so far. `answer`: from request number to response."""
    numbers = itertools.count()
    received: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                head = line
                while (line := self.rfile.readline()) != b"\r\n":
                    head += line
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                received.append(head + self.rfile.read(length))
                self.wfile.write(answer(next(numbers)))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield listening.server_address[1], received
        finally:
            listening.shutdown()
            thread.join()


def generate(port: int, tmp_path: Path, **plan: object) -> dict[str, Any]:
    body = tmp_path / "body"
    body.write_bytes(BODY)
    requests = [["/a", "image/jpeg", str(body)], ["/b", "text/plain", str(body)]]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps({"port": port, "requests": requests} | plan),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def ok(_: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.slow
def test_closed_loop(tmp_path: Path) -> None:
    with server(ok) as (port, received):
        outcome = generate(port, tmp_path, clients=3, count=60, seconds=30, warm_up_s=0)
    assert len(outcome["latencies_ms"]["200"]) == len(received) == 60
    assert outcome["unanswered"] == outcome["retry_after"] == 0
    heads = [request.partition(b"\r\n")[0] for request in received]
    assert set(heads) == {b"POST /a HTTP/1.1", b"POST /b HTTP/1.1"}
    assert all(request.endswith(b"\r\n" + BODY) for request in received)


@pytest.mark.slow
def test_counts_per_status(tmp_path: Path) -> None:
    def answer(number: int) -> bytes:
        if number % 3 == 0:
            return b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
        if number % 3 == 1:
            return b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        return ok(number)

    with server(answer) as (port, _):
        outcome = generate(port, tmp_path, count=30, seconds=30, warm_up_s=0)
    assert {status: len(times) for status, times in outcome["latencies_ms"].items()} == {"200": 10, "503": 20}
    assert outcome["retry_after"] == 10


@pytest.mark.slow
def test_open_loop_latency_from_the_scheduled_time(tmp_path: Path) -> None:
    gate = threading.Lock()

    def serial(number: int) -> bytes:
        with gate:
            time.sleep(0.02)  # simulates 20 ms on one core, without using a real one
        return ok(number)

    with server(serial) as (port, received):
        outcome = generate(port, tmp_path, rate=100, seconds=1)
    latencies = outcome["latencies_ms"]["200"]
    # The offered load is twice the capacity, so waits grow to half a second; a closed loop would always
    # measure 20 ms.
    assert len(latencies) == len(received)
    assert outcome["unanswered"] == 0
    assert 60 <= len(latencies) <= 150
    assert max(latencies) > 300
    assert outcome["seconds"] == pytest.approx(len(latencies) * 0.02, rel=0.5)


@pytest.mark.slow
def test_lost_connection(tmp_path: Path) -> None:
    def answer(number: int) -> bytes:
        if number == 5:
            raise ConnectionAbortedError
        return ok(number)

    with server(answer) as (port, _), pytest.MonkeyPatch.context() as patch:
        patch.setattr(socketserver.BaseServer, "handle_error", lambda *_: None)
        outcome = generate(port, tmp_path, count=20, seconds=30, warm_up_s=0)
    assert {status: len(times) for status, times in outcome["latencies_ms"].items()} == {"200": 19, "lost": 1}
