"""HTTP load generator for one loopback port, in a separate process, with a maximum duration.

`python -m benchmarks.load` reads a Plan as JSON from standard input and prints an Outcome as JSON. The
generator shares cores with the server, so it must use little CPU time. Therefore requests are built in
advance and written in one piece to persistent connections. Only status, length and `Retry-After` of a
response are parsed.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import uvloop

HOST = "127.0.0.1"
MOST_CONNECTIONS = 512
LONGEST_S = 60
"""Maximum duration of a run, in seconds."""
LAST_ANSWERS_S = 12
"""Seconds to wait for responses after the last request: slightly more than the service's deadline."""


@dataclass(frozen=True)
class Plan:
    """Requests to send in turn, in a closed or an open loop.

    If `rate` is None, the loop is closed: each of `clients` clients waits for the response before it sends
    the next request. If `rate` is given, the loop is open: requests are sent at random times, `rate` per
    second on average, without waiting for responses. The run ends after `seconds`. A closed loop also ends
    after `count` requests, if `count` is given.
    """

    port: int
    requests: list[tuple[str, str, str]]
    """Path, content type, and file with the body of each request."""
    clients: int = 1
    rate: float | None = None
    seconds: float = 3
    count: int | None = None
    warm_up_s: float = 0.3
    seed: int = 0


@dataclass
class Outcome:
    """The responses of a run.

    `latencies_ms`: the latencies by HTTP status. They are measured from the sending of the request in the
    closed loop, and from the scheduled time in the open loop. `retry_after`: number of responses that have
    `Retry-After`. `unanswered`: number of requests of the open loop that got no response.
    """

    seconds: float = 0
    latencies_ms: dict[str, list[float]] = field(default_factory=dict)
    retry_after: int = 0
    unanswered: int = 0

    def add(self, status: str, started_ns: int) -> None:
        """Count a response that has just arrived."""
        elapsed = (time.perf_counter_ns() - started_ns) / 1e6
        self.latencies_ms.setdefault(status, []).append(round(elapsed, 4))


class Connection(asyncio.Protocol):
    """A persistent connection, which carries one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[str, bool]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is not a subclass

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> asyncio.Future[tuple[str, bool]]:
        """Send a request. The future's result is the status, and whether the response has `Retry-After`."""
        assert self._transport is not None
        self._buffer = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator or self._answer is None or self._answer.done():
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(body) >= length:
            if b"connection: close" in lines and self._transport is not None:
                self._transport.close()
            retry_after = any(line.startswith(b"retry-after:") for line in lines)
            self._answer.set_result((lines[0].split(b" ")[1].decode(), retry_after))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(("lost", False))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def build(port: int, path: str, content_type: str, file: str) -> bytes:
    """Return a complete POST request."""
    body = Path(file).read_bytes()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, HOST, port)
    return connection


async def closed_loop(plan: Plan, requests: list[bytes]) -> Outcome:
    """Run `plan.clients` clients; each sends its next request after the response to the previous one."""
    outcome = Outcome()
    start = time.perf_counter() + plan.warm_up_s
    end = start + min(plan.seconds, LONGEST_S)
    remaining = iter(range(plan.count)) if plan.count is not None else iter(lambda: 0, 1)

    async def client(index: int) -> None:
        connection = await connect(plan.port)
        turn = index
        while time.perf_counter() < end and next(remaining, None) is not None:
            if not connection.open:
                connection = await connect(plan.port)
            sent = time.perf_counter_ns()
            status, retry_after = await connection.send(requests[turn % len(requests)])
            turn += plan.clients
            if sent / 1e9 >= start:
                outcome.add(status, sent)
                outcome.retry_after += retry_after
        connection.close()

    await asyncio.gather(*(client(index) for index in range(plan.clients)))
    outcome.seconds = time.perf_counter() - start
    return outcome


async def open_loop(plan: Plan, rate: float, requests: list[bytes]) -> Outcome:
    """Send requests at Poisson times. The wait for a free connection is part of the latency."""
    outcome = Outcome()
    gaps = random.Random(plan.seed)
    idle = deque([await connect(plan.port) for _ in range(64)])
    connections = len(idle)
    waiting: deque[int] = deque()
    tasks: set[asyncio.Task[None]] = set()
    turn = 0

    async def send(connection: Connection | None, due_ns: int) -> None:
        nonlocal turn
        while True:
            if connection is None or not connection.open:
                connection = await connect(plan.port)
            turn += 1
            status, retry_after = await connection.send(requests[turn % len(requests)])
            outcome.add(status, due_ns)
            outcome.retry_after += retry_after
            if not waiting:
                idle.append(connection)
                return
            due_ns = waiting.popleft()

    start = time.perf_counter()
    due = start
    while (due := due + gaps.expovariate(rate)) < start + min(plan.seconds, LONGEST_S):
        if (delay := due - time.perf_counter()) > 0:
            await asyncio.sleep(delay)
        if not idle and connections >= MOST_CONNECTIONS:
            waiting.append(int(due * 1e9))
            continue
        connections += not idle
        task = asyncio.create_task(send(idle.popleft() if idle else None, int(due * 1e9)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=LAST_ANSWERS_S)
    outcome.seconds = time.perf_counter() - start
    outcome.unanswered = len(tasks) + len(waiting)
    return outcome


async def run(plan: Plan) -> Outcome:
    """Run the open or the closed loop of `plan`."""
    requests = [build(plan.port, *request) for request in plan.requests]
    if plan.rate is not None:
        return await open_loop(plan, plan.rate, requests)
    return await closed_loop(plan, requests)


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(run(Plan(**json.load(sys.stdin)))))))
