"""An HTTP/1.1 client for many small requests: keeps connections open, and can cut them at any byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1"
IDLE_S = 30.0
"""After this time a connection is not used again: well before the service closes it."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with which close() sends a reset."""


class NoAnswer(Exception):
    """The connection was closed, or the time was over, before the response was complete."""


@dataclass(frozen=True)
class Answer:
    """A response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded body."""
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The `type` of a problem document; empty for any other response."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        return str(self.json()["type"])

    @property
    def detail(self) -> str:
        """What a problem document says, or the beginning of any other body."""
        return str(self.json()["detail"]) if self.problem else self.body[:300].decode(errors="replace")


@dataclass(frozen=True)
class Request:
    """A request. `query` begins with `?` or is empty."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def encoded(self, host: str) -> bytes:
        """Return the bytes of the request."""
        lines = [f"{self.method} {self.path}{self.query} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body or self.method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def form(*parts: tuple[str, str, bytes]) -> tuple[bytes, dict[str, str]]:
    """Return body and header of a form of (name, file name or "", content)."""
    boundary = "soak-boundary"
    pieces = []
    for name, file, content in parts:
        named = f'; filename="{file}"' if file else ""
        pieces.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()
            + content
            + b"\r\n"
        )
    body = b"".join(pieces) + f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def parsed(received: bytes) -> Answer:
    """Return the response that was received before a connection was closed."""
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = [line.partition(":") for line in lines]
    headers = {name.lower(): value.strip() for name, _, value in fields}
    return Answer(int(first.split(" ")[1]), headers, body)


class Client:
    """A client of the service on one loopback port, with as many connections as requests at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: deque[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def ask(self, request: Request, *, seconds: float = 30) -> Answer:
        """Send a request once and return the response. Raises NoAnswer."""
        raw = request.encoded(f"{HOST}:{self._port}")
        try:
            reader, writer = self._take_idle() or await self._connect()
        except OSError as error:
            raise NoAnswer(f"cannot connect: {error}") from error
        try:
            async with asyncio.timeout(seconds):
                writer.write(raw)
                answer, keep = await _read(reader, await reader.readline(), request.method)
        except ConnectionError as error:
            writer.close()
            raise NoAnswer(f"connection lost: {error!r}") from error
        except TimeoutError as error:
            writer.transport.abort()
            raise NoAnswer(f"no response within {seconds:g} s") from error
        except (asyncio.IncompleteReadError, ValueError, IndexError) as error:
            writer.transport.abort()
            raise NoAnswer(f"incomplete response: {error!r}") from error
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        if keep:
            self._idle.append((time.monotonic(), reader, writer))
        else:
            writer.close()
        return answer

    async def cut(self, raw: bytes, sent: int, *, read: int = 0, reset: bool = True) -> bytes:
        """Send the first `sent` bytes, read up to `read` bytes, and close, with a reset if asked for.

        Returns what was read. Without a reset, only the sending side is closed, and the rest is read.
        """
        reader, writer = await self._connect()
        received = b""
        try:
            writer.write(raw[:sent])
            await writer.drain()
            async with asyncio.timeout(30):
                if not reset:
                    writer.write_eof()
                    return await reader.read()
                if read:
                    received = await reader.read(read)
            return received
        except (ConnectionError, TimeoutError):
            return received
        finally:
            if reset:
                with contextlib.suppress(OSError):  # the service may have been the first
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    def close(self) -> None:
        """Close all connections that are not in use."""
        while self._idle:
            self._idle.pop()[2].close()

    @property
    def host(self) -> str:
        """The value of the header field `Host`."""
        return f"{HOST}:{self._port}"

    def _take_idle(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return the connection that was used last, None without one that the service still keeps open."""
        while self._idle:
            since, reader, writer = self._idle.pop()
            closed = reader.at_eof() or reader.exception() is not None or writer.is_closing()
            if time.monotonic() - since < IDLE_S and not closed:
                return reader, writer
            writer.close()
        return None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HOST, self._port, limit=2**22)


async def _read(reader: asyncio.StreamReader, first: bytes, method: str) -> tuple[Answer, bool]:
    """Read a response whose first line was read; also return whether the connection stays open."""
    status = int(first.split(b" ", 2)[1])
    headers: dict[str, str] = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    body = b""
    if "content-length" in headers and method != "HEAD":
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    elif not first:
        raise asyncio.IncompleteReadError(b"", None)
    return Answer(status, headers, body), headers.get("connection", "").lower() != "close"
