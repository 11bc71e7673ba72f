"""Raw HTTP over sockets: requests cut into packets, responses parsed."""

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
    """A request as the application received it."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass
class Application:
    """An ASGI application that records requests and responds with 200; for `early` paths before the body."""

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
    """Result of a connection: requests received, status of each response, whether it was closed, bytes."""

    seen: list[Seen]
    statuses: list[int]
    closed: bool
    received: bytes


def converse(
    packets: Iterable[bytes],
    protocol: type[HttpProtocol] = HttpProtocol,
    application: Application | None = None,
) -> Outcome:
    """Send `packets` over a new socket, each after the server has read the previous one."""
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
    """Serve `app` on a new loopback socket; yields its address."""
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
    """Return status, header and body of each final response in `received`; fails for other bytes."""
    received = received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    stream = io.BytesIO(received)
    stream.close = lambda: None  # type: ignore[method-assign]  # HTTPResponse closes what it has read
    parsed = []
    while stream.tell() < len(received):
        response = http.client.HTTPResponse(cast(socket.socket, _File(stream)))
        response.begin()
        parsed.append((response.status, response.headers, response.read()))
    return parsed


@dataclass(frozen=True)
class _File:
    stream: io.BytesIO

    def makefile(self, _mode: str) -> io.BytesIO:
        return self.stream


def cut(raw: bytes, offsets: Sequence[int]) -> list[bytes]:
    """Split `raw` at `offsets`."""
    edges = [0, *sorted({offset for offset in offsets if 0 < offset < len(raw)}), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


def ask(address: Address, raw: bytes, *, seconds: float = 20) -> bytes:
    """Send `raw` and return everything received until the server closes the connection."""
    with socket.create_connection(address, timeout=seconds) as connection:
        connection.sendall(raw)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received
