"""Parse the parts of a multipart form (RFC 7578, RFC 2046) as they arrive."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError, ParseError
from python_multipart.multipart import MAX_BOUNDARY_LENGTH, MultipartParser, parse_options_header

from models.zoo.display import quoted
from service.api.body.request import Body, content_type_of
from service.errors import DeadlineExceeded, MalformedRequest

MAX_HEADER_FIELDS = 32
"""Maximum number of header fields of a part."""

MAX_HEADER_BYTES = 16_384
"""Maximum bytes of one header field of a part, enough for file names of thousands of characters."""

MAX_PREAMBLE_BYTES = 65_536
"""Maximum bytes before the first boundary."""

_LIMITS = {
    "Maximum header count exceeded": f"a part has too many header fields (limit: {MAX_HEADER_FIELDS})",
    "Maximum header size exceeded": f"a header field of a part is too long (limit: {MAX_HEADER_BYTES} bytes)",
}
_PLAIN = frozenset({b"", b"7bit", b"8bit", b"binary"})


OpenFile = Callable[[str, str], BinaryIO | None]
"""Function that opens a file for a part of the form, whose content is then written to the file.

It gets the part's name and file name. It returns the opened file, or None if the part is to be kept in
memory.
"""


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a form.

    `size`: number of bytes received. `data`: the content. It is None if the part is over its limit, has a
    name for which no limit is given, or was written to a file. `file`: whether the part has a file name.
    """

    name: str
    data: bytes | None
    size: int
    file: bool = False


async def stream_parts(
    request: Request,
    limits: Mapping[str, int],
    *,
    wait_s: float,
    max_bytes: int | None = None,
    open_file: OpenFile | None = None,
) -> AsyncIterator[Part]:
    """Yield each part of the form, in order, once it is complete.

    `limits`: maximum bytes of each part that is kept in memory, by the part's name. `wait_s`: maximum seconds
    between two chunks of the body. `max_bytes`: maximum size of the form; None for no limit. `open_file`: see
    `OpenFile`; the bytes are written on a thread as they arrive, and the file is closed at the end of the
    part. A part is not kept in memory after it was yielded.

    Raises MalformedRequest, BodyTooLarge if the whole form is too large, DeadlineExceeded, ClientGone, and
    the errors of `open_file` and of writing.
    """
    form = Parts(content_type_of(request), limits, open_file)
    body = Body(request, max_bytes)
    while True:
        try:
            async with asyncio.timeout(wait_s):
                chunk = await body.chunk()
        except TimeoutError:
            raise DeadlineExceeded(f"body: no data for {wait_s:g} s") from None
        if chunk is None:
            break
        if open_file is None:
            form.feed(chunk)
        else:
            await asyncio.to_thread(form.feed, chunk)
        for part in form.finished():
            yield part
    form.check_complete()


class Parts:
    """Incremental parser of a form: it takes bytes, and returns the parts that are complete.

    Its methods raise MalformedRequest if the form is malformed.
    """

    def __init__(
        self, content_type: str, limits: Mapping[str, int], open_file: OpenFile | None = None
    ) -> None:
        """Begin to parse a form. Its boundary is in `content_type`.

        `limits`: maximum bytes of each part that is kept in memory, by the part's name. A part for which
        `open_file` opens a file is written to that file, whatever its size.
        """
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise MalformedRequest("content type multipart/form-data: no boundary")
        if len(boundary) > MAX_BOUNDARY_LENGTH:
            raise MalformedRequest(
                f"multipart form: a boundary of {len(boundary)} bytes (limit: {MAX_BOUNDARY_LENGTH})"
            )
        self._limits = limits
        self._open_file = open_file
        self._destination: BinaryIO | None = None
        self._finished: list[Part] = []
        self._name = ""
        self._file = False
        self._decode = b""  # Content-Transfer-Encoding of the part
        self._pieces: list[bytes] = []
        self._size = 0
        self._header = [b"", b""]
        self._headers: dict[bytes, bytes] = {}
        self._complete = False
        self._preamble: bytes | None = b"\r\n"  # None after the first boundary
        self._delimiter = b"--" + boundary
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header_piece(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._header_piece(1, data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._all,
            },
            max_header_count=MAX_HEADER_FIELDS,
            max_header_size=MAX_HEADER_BYTES,
        )

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the form."""
        if self._preamble is not None:
            chunk = self._without_preamble(chunk)
            if not chunk:
                return
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            reason = _LIMITS.get(str(error))
            if reason is None and self._is_fold(chunk, error):
                reason = "a folded header field of a part (allowed: each field on one line)"
            if reason is None:
                reason = "the body is not a multipart form with the boundary of its content type"
            raise MalformedRequest(f"multipart form: {reason}") from None

    def _is_fold(self, chunk: bytes, error: FormParserError) -> bool:
        """Return whether the parser stopped at a folded header line, which continues the previous field."""
        if not isinstance(error, ParseError):
            return False
        at = error.offset
        starts_line = chunk[at - 1 : at] == b"\n" if at > 0 else self._header == [b"", b""]
        return "in header" in str(error) and starts_line and chunk[at : at + 1] in (b" ", b"\t")

    def finished(self) -> list[Part]:
        """Return the parts that were completed since the last call."""
        parts, self._finished = self._finished, []
        return parts

    def check_complete(self) -> None:
        """Raise MalformedRequest unless the closing boundary was parsed."""
        if self._preamble is not None:
            if self._delimiter + b"\n" in self._preamble:
                raise MalformedRequest("multipart form: lines end in LF (allowed: CR LF)")
            raise MalformedRequest("multipart form: the boundary of the content type is not in the body")
        if not self._complete:
            raise MalformedRequest("multipart form: ends before its closing boundary")

    def _without_preamble(self, chunk: bytes) -> bytes:
        """Return the bytes from the first boundary on (RFC 2046 5.1.1).

        Until the first boundary has arrived, the result is empty.
        """
        searched = self._preamble or b""
        if searched == b"\r\n" and chunk.startswith(self._delimiter + b"\r\n"):  # nearly always
            self._preamble = None
            return chunk
        preamble = searched + chunk
        # Bytes that were searched before need not be searched again, except from their last line end on.
        boundary = re.compile(rb"\r\n" + re.escape(self._delimiter) + rb"([ \t]*\r\n|--)")
        first = boundary.search(preamble, max(0, searched.rfind(b"\r\n")))
        if first is not None:
            self._preamble = None
            return self._delimiter + first[1].lstrip(b" \t") + preamble[first.end() :]
        if len(preamble) > MAX_PREAMBLE_BYTES:
            self.check_complete()
        self._preamble = preamble
        return b""

    def _begin(self) -> None:
        self._name, self._pieces, self._size = "", [], 0
        self._headers = {}

    def _header_piece(self, index: int, piece: bytes) -> None:
        self._header[index] += piece

    def _header_end(self) -> None:
        field, value = self._header
        self._header = [b"", b""]
        field = field.lower()
        if field.startswith(b"content-") and field in self._headers:
            raise MalformedRequest(f"multipart form: a part with two header fields {quoted(field)}")
        self._headers[field] = value

    def _headers_finished(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        name = options.get(b"name")
        if not name:
            raise MalformedRequest(
                "multipart form: a part without a name (needed: Content-Disposition: form-data; name=...)"
            )
        self._name = name.decode("utf-8", "replace")
        self._file = b"filename" in options
        media_type = parse_options_header(self._headers.get(b"content-type", b""))[0]
        if media_type.startswith(b"multipart/"):
            raise MalformedRequest(
                f"multipart form: part {self._name[:50]!r} is {quoted(media_type)} (allowed: a part per file)"
            )
        self._decode = self._headers.get(b"content-transfer-encoding", b"").strip(b" \t").lower()
        if self._decode not in _PLAIN | _DECODERS.keys():
            raise MalformedRequest(
                f"multipart form: Content-Transfer-Encoding of part {self._name[:50]!r} is "
                f"{quoted(self._decode)} (allowed: 7bit, 8bit, binary, base64, quoted-printable)"
            )
        if self._file and self._open_file is not None:
            file_name = options[b"filename"].decode("utf-8", "replace")
            self._destination = self._open_file(self._name, file_name)
        if self._destination is not None and self._decode not in _PLAIN:
            raise MalformedRequest(
                f"multipart form: Content-Transfer-Encoding of part {self._name[:50]!r} is "
                f"{quoted(self._decode)} (allowed: 7bit, 8bit, binary)"
            )

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._destination is not None:
            self._destination.write(data[start:end])
        elif self._size <= self._limits.get(self._name, -1):
            self._pieces.append(data[start:end])
        else:
            self._pieces.clear()

    def _end(self) -> None:
        if self._destination is not None:
            self._destination.close()
            self._destination = None
            self._finished.append(Part(self._name, None, self._size, self._file))
            return
        data = b"".join(self._pieces) if self._size <= self._limits.get(self._name, -1) else None
        self._pieces = []
        if data is not None and self._decode in _DECODERS:
            try:
                data = _DECODERS[self._decode](data)
            except binascii.Error:
                raise MalformedRequest(
                    f"multipart form: part {self._name[:50]!r} is not valid {self._decode.decode()}"
                ) from None
        self._finished.append(Part(self._name, data, self._size, self._file))

    def _all(self) -> None:
        self._complete = True


def _from_base64(data: bytes) -> bytes:
    return base64.b64decode(data.translate(None, b" \t\r\n"), validate=True)


_DECODERS = {b"base64": _from_base64, b"quoted-printable": binascii.a2b_qp}
