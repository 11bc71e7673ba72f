"""HTTP/1.1 connections: uvicorn's httptools protocol with strict framing, limits and a lingering close.

Differences from uvicorn's `HttpToolsProtocol`:

- The parser gets the bytes of one request at a time; later bytes wait until the response is complete. Parser
  and application therefore agree on where a request ends. Bytes after a refused request, or after a request
  that closes the connection, are never parsed as a request.
- `Upgrade` and trailer fields are dropped.
- Size, number of fields and duration of a request head are limited.
- A refused request gets a problem document.
- If the response was sent before the whole request arrived, the rest is read and discarded for a limited
  time, so that the client reads the response instead of a connection reset (RFC 9112 9.6).
- A client that does not read its response is disconnected.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Callable
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.api.connection.framing import (
    FRAMING_FIELDS,
    ChunkedBody,
    Head,
    check_framing,
    head_length,
    read_head,
    skip_blank_lines,
)
from service.api.middleware.context import identifying_headers, new_request_id
from service.api.problems import problem_of
from service.errors import MalformedRequest, RequestTimeout, WeighinError

log = structlog.get_logger(__name__)


_HIGH_WATER_BYTES = 262_144
"""Stop reading a request's body while more than this many bytes wait for the application.

uvloop reads up to 256 000 bytes at a time, so most images never stop the reading.
"""
_OBJECT_BYTES = 64
"""Bytes of memory that a piece of the body takes in addition to its content."""
_JOINED_BYTES = 65_536
"""Maximum bytes of a response's body that are joined with the head and sent together with it.

A longer piece of the body is sent separately, because joining copies it.
"""


def _uncounted(_: str) -> None:
    pass


class HttpProtocol(HttpToolsProtocol):
    """One HTTP/1.1 connection, which serves its requests strictly one after the other."""

    head_s = 10.0
    """Timeout from the first byte of a request head to its last, in seconds."""
    drain_s = 10.0
    """Maximum time to read and discard the rest of an answered request, in seconds."""
    drain_idle_s = 5.0
    """Discarding ends if no byte arrives for this many seconds."""
    drain_bytes = 100_000_000
    """Maximum bytes of an answered request to read and discard."""
    unread_s = 30.0
    """Seconds between two checks whether the client reads the response.

    A client that has read no byte of the response since the last check is disconnected.
    """
    unread_stopping_s = 1.0
    """Value of `unread_s` while the service is stopping."""
    refused: Callable[[str], None] = staticmethod(_uncounted)
    """Called with the error slug of each request that is refused before it reaches the application."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unread = b""  # bytes after the current request, or an incomplete head
        self._ignoring = False  # discard all further input
        self._head_complete = False
        self._message_complete = False
        self._keep_alive = False
        self._framing: list[tuple[bytes, bytes]] = []  # the head's FRAMING_FIELDS
        self._receiving = False  # the body of `cycle` is incomplete
        self._chunked: ChunkedBody | None = None
        self._length_left = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._written = 0
        self._taken_before = -1
        self._drain_until = 0.0
        self._drained = 0
        self._drained_before = 0

    # Connection events

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the idle timer, because uvicorn never closes a connection on which no request arrives."""
        super().connection_made(transport)
        self._response_transport: Any = _ResponseTransport(transport, self)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and notify the application."""
        self._ignoring = True
        self._unread = b""
        self._unset_keepalive_if_required()
        self._stop_head_timer()
        self._stop_draining()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes. If the response was sent early, discard the rest of the request."""
        if self._drain_timer is not None:
            self._drained += len(data)
            if self._drained > self.drain_bytes:
                self.transport.abort()
                return
        if self._ignoring:
            return
        if self._unread:
            data, self._unread = self._unread + data, b""
        self._read(data)

    def shutdown(self) -> None:
        """Close the connection after the current response, or at once if there is none."""
        self.unread_s = self.unread_stopping_s
        if self._unread_timer is not None:
            self._stop_unread_timer()
            self._await_reader()
        if self._ignoring and (self.cycle is None or self.cycle.disconnected):
            self.transport.close()
        else:
            super().shutdown()

    def write(self, data: bytes) -> None:
        """Send response bytes and watch whether the client reads them."""
        self._written += len(data)
        self.transport.write(data)
        if self._unread_timer is None and self.transport.get_write_buffer_size():
            self._await_reader()

    def _await_reader(self) -> None:
        self._taken_before = self._written - self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(self.unread_s, self._check_reader)

    def _check_reader(self) -> None:
        self._unread_timer = None
        unread = self.transport.get_write_buffer_size()
        if not unread:
            return
        if self._written - unread == self._taken_before:
            log.info("client disconnected: response not read", unread_bytes=unread)
            self.transport.abort()
        else:
            self._await_reader()

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    # Requests

    def _read(self, data: bytes) -> None:
        try:
            while data:
                if self._receiving:
                    taken = self._read_body(data)
                elif self.cycle is not None and not self.cycle.response_complete:
                    self._unread = data
                    self.flow.pause_reading()
                    return
                else:
                    data = skip_blank_lines(data)
                    taken = head_length(data)
                    if not taken:
                        self._await_head(data)
                        return
                    self._begin(data if taken == len(data) else data[:taken])
                data = data[taken:]
        except WeighinError as error:
            self._refuse(error)

    def _await_request(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _await_head(self, start: bytes) -> None:
        self._unread = start
        if start and self._head_timer is None:
            self._unset_keepalive_if_required()
            self._head_timer = self.loop.call_later(self.head_s, self._refuse_slow_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_slow_head(self) -> None:
        self._refuse(RequestTimeout(f"request head: incomplete after {self.head_s:g} s"))

    def _begin(self, raw: bytes) -> None:
        """Parse a complete head and start the application."""
        self._unset_keepalive_if_required()
        self._stop_head_timer()
        head = read_head(raw)
        self._framing = []
        self._head_complete = self._message_complete = False
        self._feed(head.raw)
        chunked = check_framing(head, self._framing)
        if not self._head_complete:
            raise MalformedRequest("request head: its end is ambiguous")
        if not self._message_complete:
            self._chunked = ChunkedBody() if chunked else None
            self._length_left = 0 if chunked else int(dict(self._framing)[b"content-length"])
        self._start(head)

    def _start(self, head: Head) -> None:
        path = head.path.decode("ascii")
        scope = self.scope
        scope["method"] = head.method
        scope["http_version"] = head.version
        scope["path"] = self.root_path + (urllib.parse.unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + head.path
        scope["query_string"] = head.query
        expects = self.expect_100_continue and head.version != "1.0" and not self._message_complete
        cycle_type = _ExpectingCycle if expects else _Cycle
        self.cycle = cycle_type(
            scope=scope,
            transport=self._response_transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=self._keep_alive,
            on_response=self.on_response_complete,
        )
        self._receiving = not self._message_complete
        if self._message_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()
        self._start_asgi_task(self.cycle, self.app)

    def _read_body(self, data: bytes) -> int:
        """Pass bytes to the current request: those at the start of `data` that belong to its body.

        Returns the number of these bytes.
        """
        if self._chunked is not None:
            taken = self._chunked.take(data)
            self._feed(data if taken == len(data) else data[:taken])
            complete = self._chunked.complete
            if complete != self._message_complete:
                raise MalformedRequest("request body: its end is ambiguous")
        else:  # without the parser, which would copy the bytes
            taken = min(self._length_left, len(data))
            self.on_body(data if taken == len(data) else data[:taken])
            self._length_left -= taken
            complete = not self._length_left
        if complete:
            self._end_body()
        return taken

    def _end_body(self) -> None:
        self._receiving = False
        # a new parser: trailer fields may have changed the old one, and it never sees a body without chunks
        self.parser = httptools.HttpRequestParser(self)
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()
        else:
            self._stop_draining()
            self._await_request()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise MalformedRequest(f"request: {error}") from None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header field. If the field is a trailer field, which follows the body, drop it."""
        if self._head_complete:
            return
        name = name.lower()
        value = value.rstrip(b" \t")
        if name in FRAMING_FIELDS:
            self._framing.append((name, value))
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Store whether the connection is kept open after the request.

        The parser forgets this when the request is complete.
        """
        self._head_complete = True
        self._keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body to the application, unless the response is complete.

        Reading stops while more than `_HIGH_WATER_BYTES` wait for the application.
        """
        cycle: _Cycle = self.cycle  # type: ignore[assignment]
        if cycle.response_complete:
            return
        cycle.add(body)
        if cycle.unread_bytes > _HIGH_WATER_BYTES:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """Record that the parser reached the end of the request."""
        self._message_complete = True

    def _refuse(self, error: WeighinError) -> None:
        """Answer an invalid request with a problem document, and close the connection.

        If the application has already begun its response, no problem document is sent, and the connection is
        closed after this response.
        """
        self._unread = b""
        self._ignoring = True
        if self._receiving:
            cycle = self.cycle
            if cycle.response_started and not cycle.response_complete:
                cycle.keep_alive = False  # the response is valid; `end` is called after it
                self.flow.pause_reading()
                return
            answered = cycle.response_complete
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
        else:
            answered = False
        if not answered:
            self._write_problem(error)
            if self._receiving:
                self.cycle.scope["state"]["refused"] = error.slug  # the application counts it
            else:
                self.refused(error.slug)
        self.end(lingering=True)

    def _write_problem(self, error: WeighinError) -> None:
        request_id = new_request_id()
        response = problem_of(request_id, error)
        if self._receiving:
            response.take_form_for(self.cycle.scope)
        response.headers["Connection"] = "close"
        content = [STATUS_LINE[response.status_code]]
        for name, value in (
            *self.server_state.default_headers,
            *response.raw_headers,
            *identifying_headers(request_id),
        ):
            content += [name, b": ", value, b"\r\n"]
        self.write(b"".join([*content, b"\r\n", bytes(response.body)]))
        log.info("request refused", request_id=request_id, status=response.status_code, detail=error.detail)

    # End of a response and of the connection

    def on_response_complete(self) -> None:
        """Continue with the next request once the rest of this request has arrived."""
        self.server_state.total_requests += 1
        if self._ignoring or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._receiving:
            self._start_draining()
            return
        self._await_request()
        if self._unread:
            data, self._unread = self._unread, b""
            self._read(data)

    def end(self, *, lingering: bool = False) -> None:
        """Close the connection after all written bytes are sent.

        In two cases, only the write side is closed at first, and further input is discarded. The first case
        is that the client may still be sending: `lingering` is set, the request's body is incomplete, or
        bytes are unread. The second case is that the connection is not kept alive: it is then enough to close
        the write side, because the client closes the connection afterwards. If both sides were closed at
        once, the connection could be reset, and the client could lose the response.
        """
        lingering = lingering or self._receiving or bool(self._unread) or not self._keep_alive
        self._ignoring = True
        self._unread = b""
        self._unset_keepalive_if_required()
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        if lingering and self.transport.can_write_eof():
            self.transport.write_eof()
            self._start_draining()
        else:
            self.transport.close()

    def _start_draining(self) -> None:
        self.flow.resume_reading()
        self._drained = self._drained_before = 0
        self._drain_until = self.loop.time() + self.drain_s
        self._drain_timer = self.loop.call_later(min(self.drain_idle_s, self.drain_s), self._check_draining)

    def _stop_draining(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None

    def _check_draining(self) -> None:
        left = self._drain_until - self.loop.time()
        if self.transport.get_write_buffer_size():  # the client may be slow to read: see `_check_reader`
            left = max(left, self.drain_idle_s)
        elif left <= 0 or self._drained == self._drained_before:
            self.transport.close()
            return
        self._drained_before = self._drained
        self._drain_timer = self.loop.call_later(min(self.drain_idle_s, left), self._check_draining)


def http_protocol(max_body_bytes: int, refused: Callable[[str], None] = _uncounted) -> type[HttpProtocol]:
    """Return the protocol class for a service whose requests have at most `max_body_bytes` bytes of body.

    Many clients read the response only after they have sent the whole body, even if the body is too large.
    After the response, the protocol therefore discards what the client still sends. It discards at most ten
    times `max_body_bytes` (or 100 MB if that is more), and then breaks the connection, because the body may
    be endless.

    `refused` is called with the error slug of each request that is refused before it reaches the application.
    """

    class LimitedProtocol(HttpProtocol):
        drain_bytes = max(HttpProtocol.drain_bytes, 10 * max_body_bytes)

    LimitedProtocol.refused = staticmethod(refused)

    return LimitedProtocol


class _Cycle(RequestResponseCycle):
    """A request and its response. It copies and writes less than uvicorn's class does.

    The body of a request is copied at most once, and a short response is written in one piece. uvicorn's
    class copies the body twice, and writes the head and the body of a response separately. The client then
    wakes up for the head alone, and takes a core if it runs on the same machine.
    """

    transport: _ResponseTransport  # type: ignore[assignment]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._unread: list[bytes] = []
        self.unread_bytes = 0

    def add(self, body: bytes) -> None:
        """Store a piece of the request's body until the application receives it."""
        self._unread.append(body)
        self.unread_bytes += len(body) + _OBJECT_BYTES
        self.message_event.set()

    async def receive(self) -> Any:
        """Return a message with the bytes of the body that have arrived since the last call.

        If none have arrived, wait for them. If the client has disconnected or the response is complete, the
        message says that the client is disconnected.
        """
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not (self.disconnected or self.response_complete):
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body = self._unread[0] if len(self._unread) == 1 else b"".join(self._unread)
        self._unread.clear()
        self.unread_bytes = 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """Send the head of the response or a piece of its body."""
        if message["type"] == "http.response.start" and self.scope["method"] != "HEAD":
            self.transport.hold_next()
        await super().send(message)
        if self.response_complete:
            self._unread.clear()


class _ExpectingCycle(_Cycle):
    """A request whose client waits for `100 Continue` before it sends the body.

    If the client gets a final response instead, the body may or may not follow, so the connection is closed.
    """

    async def send(self, message: Any) -> None:
        if self.waiting_for_100_continue:
            self.keep_alive = False
        await super().send(message)


class _ResponseTransport:
    """Transport given to response cycles: `write` and `close` call the protocol's `write` and `end`.

    The head of a response is held until the first bytes of the body are written, but no longer than until the
    event loop's next turn: a stream may send its first bytes much later.
    """

    def __init__(self, transport: asyncio.Transport, protocol: HttpProtocol) -> None:
        self.is_closing = transport.is_closing
        self._protocol = protocol
        self._holds_next = False
        self._held = b""

    def hold_next(self) -> None:
        """Hold the bytes of the next `write`."""
        self._holds_next = True

    def write(self, data: bytes) -> None:
        """Send response bytes, after any bytes that are held. After `hold_next`, hold the bytes instead."""
        if self._holds_next:
            self._holds_next = False
            self._held = data
            self._protocol.loop.call_soon(self._flush)
            return
        if self._held and len(data) <= _JOINED_BYTES:
            data, self._held = self._held + data, b""
        else:
            self._flush()
        self._protocol.write(data)

    def close(self) -> None:
        """Close the connection after all written bytes are sent."""
        self._flush()
        self._protocol.end()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            if not self.is_closing():
                self._protocol.write(held)
