"""Bytes on a connection: requests cut into packets, and the responses read back one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import itertools
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from service.api.connection.protocol import HttpProtocol
from tests.helpers.until import until

Address = tuple[str, int]


@dataclass(frozen=True)
class Seen:
    """A request as the application saw it."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass
class Application:
    """An ASGI application that keeps what it is asked and answers 200; `early` paths before the body."""

    early: frozenset[str] = frozenset({"/early"})
    seen: list[Seen] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        early = scope["path"] in self.early
        while not early:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.seen.append(
            Seen(scope["method"], scope["path"], scope["query_string"], tuple(scope["headers"]), body)
        )
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@dataclass(frozen=True)
class Outcome:
    """What came of a connection."""

    seen: list[Seen]
    statuses: list[int]
    closed: bool
    received: bytes


def converse(
    packets: Iterable[bytes],
    protocol: type[HttpProtocol] = HttpProtocol,
    application: Application | None = None,
) -> Outcome:
    """Send `packets` over a socket of their own, each read before the next is sent."""
    app = application or Application()
    return asyncio.run(_converse(packets, protocol, app))


async def _converse(packets: Iterable[bytes], protocol: type[HttpProtocol], app: Application) -> Outcome:
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    loop = asyncio.get_running_loop()
    state = ServerState()
    client, server = socket.socketpair()
    client.setblocking(False)
    with client:
        transport, _ = await loop.connect_accepted_socket(
            lambda: cast(asyncio.Protocol, protocol(config=config, server_state=state, app_state={})), server
        )
        try:
            for packet in packets:
                try:
                    client.send(packet)
                except (BrokenPipeError, ConnectionResetError):
                    break
                for _ in range(3):
                    await asyncio.sleep(0)
            received, closed, quiet = b"", False, 0
            while quiet < 20 and not closed:
                await asyncio.sleep(0)
                try:
                    piece = client.recv(1_000_000)
                    received, closed, quiet = received + piece, not piece, 0
                except BlockingIOError:
                    quiet += 1
        finally:
            transport.abort()
            await asyncio.sleep(0)
            await asyncio.gather(*state.tasks, return_exceptions=True)
    return Outcome(app.seen, [status for status, _, _ in responses(received)], closed, received)


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[Address]:
    """`app` on a socket of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    options = {"http": HttpProtocol} | options
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started, "the server started")
        yield listener.getsockname()
        until(lambda: not server.server_state.connections, "all connections closed")
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def responses(received: bytes) -> list[tuple[int, http.client.HTTPMessage, bytes]]:
    """Status, header and body of each final response in `received`. Fails for bytes that are none."""
    received = received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    stream = io.BytesIO(received)
    stream.close = lambda: None  # type: ignore[method-assign]  # HTTPResponse closes what it has read
    found = []
    while stream.tell() < len(received):
        response = http.client.HTTPResponse(cast(socket.socket, _File(stream)))
        response.begin()
        found.append((response.status, response.headers, response.read()))
    return found


@dataclass(frozen=True)
class _File:
    stream: io.BytesIO

    def makefile(self, _mode: str) -> io.BytesIO:
        return self.stream


def cut(raw: bytes, places: Sequence[int]) -> list[bytes]:
    """`raw` in pieces that end at `places`."""
    edges = [0, *sorted({place for place in places if 0 < place < len(raw)}), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


def ask(address: Address, raw: bytes, *, seconds: float = 20) -> bytes:
    """Send `raw` and return all that comes back until the server closes the connection."""
    with socket.create_connection(address, timeout=seconds) as connection:
        connection.sendall(raw)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received
