"""Strict framing of HTTP/1.1 requests (RFC 9112): where a head and a chunked body end.

The parser (llhttp) reads the same bytes; a request is refused if this module or the parser refuses it. The
code works on bytes and does no I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from models.zoo.display import quoted
from service.errors import HeadersTooLarge, MalformedRequest

MAX_HEAD_BYTES = 65_536
"""Maximum bytes of a request head, and of the trailer section of a chunked body."""

MAX_FIELDS = 100
"""Maximum number of header fields in a request, and of trailer fields in a chunked body."""

MAX_EXTENSION_BYTES = 16_384
"""Maximum bytes of all chunk extensions of a body together. The service does not use the extensions."""

MAX_SMALL_CHUNKS = 65_536
"""Maximum number of chunks in a body whose chunks have fewer than MIN_CHUNK_BYTES bytes on average."""

MIN_CHUNK_BYTES = 64
"""Minimum mean chunk size, in bytes, of a body with more than MAX_SMALL_CHUNKS chunks.

Even a small chunk takes as long to handle as kilobytes of data.
"""

FRAMING_FIELDS = frozenset({b"content-length", b"transfer-encoding", b"host"})
"""Header fields that decide where a request ends or which site it is for."""

_BLANK_LINES = re.compile(rb"(?:\r\n)*")
_REQUEST_LINE = re.compile(rb"([A-Z][A-Z-]{0,31}) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
_TARGET = re.compile(rb"(?:https?://([^/?#@]+))?(/[^?#]*)?(?:\?([^#]*))?", re.IGNORECASE)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+(?:%25[\w.~-]+)?\]|[\w.~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?", re.ASCII)
_DEFAULT_PORT = re.compile(rb":(80|443)?$")
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
_PLAIN_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_CHUNK_LINE = re.compile(rb"0*([0-9A-Fa-f]{1,16})(;[^\r\n]*)?\r\n")


@dataclass(slots=True)
class Head:
    """The head of a request, with the parts of its request line.

    `authority`: host and port in the request line, or None if it names only a path. `raw`: the whole head
    without `Upgrade` fields, for the parser.
    """

    method: str
    authority: bytes | None
    path: bytes
    query: bytes
    version: str
    raw: bytes


def skip_blank_lines(data: bytes) -> bytes:
    """Strip the empty lines that a client may send before a request line (RFC 9112 2.2)."""
    if data[:1] != b"\r":
        return data
    end = _BLANK_LINES.match(data).end()  # type: ignore[union-attr]  # matches the empty string too
    return data[end:]


def head_length(data: bytes) -> int:
    """Return the length in bytes of the request head at the start of `data`, or 0 if the head is incomplete.

    Raises HeadersTooLarge, and MalformedRequest as soon as `data` cannot be the start of a head.
    """
    end = data.find(b"\r\n\r\n") + 4
    if (end if end >= 4 else len(data)) > MAX_HEAD_BYTES:
        raise HeadersTooLarge(f"request head: more than {MAX_HEAD_BYTES} bytes")
    if end >= 4:
        return end
    if not (data[:1].isupper() or data in (b"", b"\r")) or data.count(b"\n") != data.count(b"\r\n"):
        raise MalformedRequest("request head: not HTTP/1.1 (lines end in CR LF)")
    return 0


def read_head(raw: bytes) -> Head:
    """Parse the request line of a complete head. Raises MalformedRequest, HeadersTooLarge.

    Drops `Upgrade` fields: a server may ignore them (RFC 9110 7.8), and the parser would treat the rest of
    the connection as another protocol.
    """
    line = _REQUEST_LINE.match(raw)
    if line is None:
        given = quoted(raw.partition(b"\r\n")[0])
        raise MalformedRequest(f"request line: malformed (given: {given}; allowed: METHOD TARGET HTTP/1.1)")
    method, target, major, minor = line.groups()
    if major != b"1" or minor not in b"01":
        given = f"HTTP/{major.decode()}.{minor.decode()}"
        raise MalformedRequest(f"HTTP version: unsupported (given: {given}; allowed: HTTP/1.0, HTTP/1.1)")
    if method == b"CONNECT":
        raise MalformedRequest("method: CONNECT is for proxies")
    fields = raw.count(b"\r\n") - 2
    if fields > MAX_FIELDS:
        raise HeadersTooLarge(f"request head: {fields} header fields (limit: {MAX_FIELDS})")
    if b"\r\nupgrade:" in raw.lower():
        raw = _UPGRADE.sub(b"", raw)
    version = f"1.{minor.decode()}"
    if target == b"*" and method == b"OPTIONS":
        return Head("OPTIONS", None, target, b"", version, raw)
    parts = _TARGET.fullmatch(target)
    if parts is None or (parts[1] is None and parts[2] is None):
        raise MalformedRequest(f"request target: malformed (given: {quoted(target)}; example: /path?query)")
    return Head(method.decode(), parts[1], parts[2] or b"/", parts[3] or b"", version, raw)


def check_framing(head: Head, fields: list[tuple[bytes, bytes]]) -> bool:
    """Return whether the body is chunked.

    `fields`: the header fields of the head that are in FRAMING_FIELDS.

    Raises MalformedRequest in four cases: one of these fields was sent twice; `Host` is missing, is malformed
    or contradicts the request line; fields conflict as section 6 of RFC 9112 lists; the transfer coding is
    not `chunked`.
    """
    values: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in values:
            raise MalformedRequest(f"header {name.decode()}: sent twice")
        values[name] = value
    host = values.get(b"host")
    if host is None:
        if head.version != "1.0":
            raise MalformedRequest("header host: missing")
    elif _HOST.fullmatch(host) is None:
        raise MalformedRequest(f"header host: malformed (given: {quoted(host)})")
    if head.authority is not None and host is not None and _normalised(head.authority) != _normalised(host):
        raise MalformedRequest(
            f"header host: differs from the request target (given: {quoted(host)}; "
            f"target: {quoted(head.authority)})"
        )
    coding = values.get(b"transfer-encoding")
    if coding is None:
        return False
    if b"content-length" in values:
        raise MalformedRequest("header transfer-encoding: sent beside content-length")
    if coding.lower() != b"chunked" or head.version == "1.0":
        raise MalformedRequest(
            f"header transfer-encoding: unsupported (given: {quoted(coding)} in HTTP/{head.version}; "
            "allowed: chunked in HTTP/1.1)"
        )
    return True


class ChunkedBody:
    """Incremental scanner that finds the end of a chunked body (RFC 9112 7.1)."""

    def __init__(self) -> None:
        self.complete = False
        """Whether the last byte of the body was scanned."""
        self._data_left = 0  # bytes of the current chunk that are still to come, including its line end
        self._data = 0  # sum of the chunk sizes so far
        self._chunks = 0
        self._line = b""
        self._extension_bytes = 0
        self._trailers: int | None = None  # trailer fields so far; None before the last chunk
        self._trailer_bytes = 0

    def take(self, data: bytes) -> int:
        """Scan `data` and return how many bytes at its start belong to the body.

        Raises MalformedRequest, HeadersTooLarge.
        """
        position = 0
        while position < len(data) and not self.complete:
            if self._data_left:
                taken = min(self._data_left, len(data) - position)
                self._data_left -= taken
                position += taken
                continue
            plain = None if self._line else _PLAIN_CHUNK_LINE.match(data, position)
            if plain is not None and self._trailers is None:
                self._begin_chunk(int(plain[1], 16))
                position = plain.end()
                continue
            end = data.find(b"\n", position) + 1 or len(data)
            self._line += data[position:end]
            position = end
            if self._line.endswith(b"\n"):
                line, self._line = self._line, b""
                self._read_line(line)
            elif len(self._line) > MAX_EXTENSION_BYTES:
                raise HeadersTooLarge(f"chunked body: a line of more than {MAX_EXTENSION_BYTES} bytes")
        return position

    def _read_line(self, line: bytes) -> None:
        if self._trailers is not None:
            self._read_trailer(line)
            return
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise MalformedRequest(f"chunked body: malformed chunk size (given: {quoted(line.rstrip())})")
        size = int(match[1], 16)
        if match[2] is not None:
            self._extension_bytes += len(match[2])
            if self._extension_bytes > MAX_EXTENSION_BYTES:
                raise HeadersTooLarge(f"chunked body: more than {MAX_EXTENSION_BYTES} bytes of extensions")
        self._begin_chunk(size)

    def _begin_chunk(self, size: int) -> None:
        if not size:
            self._trailers = 0
            return
        self._data_left = size + 2
        self._data += size
        self._chunks += 1
        if self._chunks > MAX_SMALL_CHUNKS and self._data < self._chunks * MIN_CHUNK_BYTES:
            raise MalformedRequest(
                f"chunked body: {self._chunks} chunks for {self._data} bytes of data (allowed: "
                f"{MAX_SMALL_CHUNKS} chunks, or {MIN_CHUNK_BYTES} bytes a chunk on average)"
            )

    def _read_trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.complete = True
            return
        self._trailers = (self._trailers or 0) + 1
        self._trailer_bytes += len(line)
        if self._trailers > MAX_FIELDS or self._trailer_bytes > MAX_HEAD_BYTES:
            limits = f"{MAX_FIELDS} fields, {MAX_HEAD_BYTES} bytes"
            raise HeadersTooLarge(f"chunked body: trailer section too large (limits: {limits})")


def _normalised(authority: bytes) -> bytes:
    """Return host and port in lower case, without a default port."""
    return _DEFAULT_PORT.sub(b"", authority.lower())
