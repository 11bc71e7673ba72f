"""Overload: bounded FIFO queue, deadlines, disconnected clients."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.helpers.http_client import http_client
from tests.helpers.problems import assert_problem
from tests.helpers.until import until as wait_until


def gauge(client: httpx.Client, name: str) -> int:
    found = re.search(rf"^weighin_requests_{name} (\d+)", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(found.group(1))


def until(client: httpx.Client, *, running: int, waiting: int) -> None:
    wait_until(
        lambda: (gauge(client, "running"), gauge(client, "waiting")) == (running, waiting),
        f"{running} running and {waiting} waiting",
    )


@contextmanager
def posting(client: httpx.Client, data: bytes, path: str = "/classify") -> Iterator[list[httpx.Response]]:
    """Post `data` to `path` from a separate thread; yield a list that gets the response."""
    answers: list[httpx.Response] = []

    def post() -> None:
        with http_client(client.base_url) as own:
            answers.append(own.post(path, content=data, timeout=60))

    thread = threading.Thread(target=post)
    thread.start()
    try:
        yield answers
    finally:
        thread.join()


@pytest.mark.slow
def test_full_queue(serve: Callable[..., httpx.Client], slow_png: bytes, png: bytes) -> None:
    client = serve(threads=1, max_waiting=1)
    with posting(client, slow_png) as first:
        until(client, running=1, waiting=0)
        with posting(client, png) as second:
            until(client, running=1, waiting=1)
            assert_problem(client.post("/classify", content=png), 503, "queue-full", "limit: 1")
            assert_problem(client.post("/compare", content=png), 503, "queue-full")
            assert_problem(client.post("/classify", files={"image": png}), 503, "queue-full")
            assert_problem(client.post("/explain", content=png), 503, "queue-full")
            assert_problem(client.post("/retrieve-similar", content=png), 503, "queue-full")
            assert_problem(client.put("/gallery/images/a", content=png), 503, "queue-full")
            assert_problem(client.post("/classify?model=none", content=png), 404, "unknown-model")
            assert_problem(client.post("/explain?model=none", content=png), 404, "unknown-model")
            assert_problem(client.get("/classify"), 405, "method-not-allowed")
    assert [answer.status_code for answer in (*first, *second)] == [200, 200]
    assert second[0].json()["timings_ms"]["queue"] > 1
    errors = client.get("/latency?model=tiny&stage=total").json()["latencies"][0]["errors"]
    assert errors == {"queue-full": 2}
    shown = client.get("/metrics").text
    assert 'weighin_errors_total{kind="queue-full",model="tiny"} 2.0' in shown
    assert 'weighin_errors_total{kind="queue-full",model=""} 4.0' in shown, (
        "the comparison, the unread form, the search and the image to keep"
    )


@pytest.mark.slow
def test_disconnect_while_queued(serve: Callable[..., httpx.Client], slow_png: bytes, png: bytes) -> None:
    client = serve(threads=1, max_waiting=1)
    with posting(client, slow_png) as first:
        until(client, running=1, waiting=0)
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address, timeout=30) as impatient:
            head = f"POST /classify HTTP/1.1\r\nHost: test\r\nContent-Length: {len(png)}\r\n\r\n"
            impatient.sendall(head.encode() + png)
            until(client, running=1, waiting=1)
        until(client, running=1, waiting=0)
        with posting(client, png) as next_one:
            pass
    assert [answer.status_code for answer in (*first, *next_one)] == [200, 200]
    row = client.get("/latency?model=tiny&stage=total").json()["latencies"][0]
    assert (row["count"], row["errors"]) == (2, {"client-gone": 1})


@pytest.mark.slow
def test_deadline_while_queued(serve: Callable[..., httpx.Client], slow_png: bytes, png: bytes) -> None:
    client = serve(threads=1, deadline_s=0.1)
    with posting(client, slow_png) as first:
        until(client, running=1, waiting=0)
        assert_problem(client.post("/classify", content=png), 504, "deadline-exceeded", "0.1 s")
    assert first[0].status_code == 200
