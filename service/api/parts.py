"""The parts of a multipart form one after the other as they come in, however many there are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from service.errors import BodyTooLarge, ClientGone, DeadlineExceeded, MalformedRequest


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a form. `size` is what it had; `data` is None where that is more than it may have, or where
    nobody asked for a part of that name."""

    name: str
    data: bytes | None
    size: int


def content_type_of(request: Request) -> str:
    """What the body says that it is; empty where it does not."""
    return request.headers.get("content-type", "")


def is_form(request: Request) -> bool:
    """Whether the body says that it is a multipart form."""
    return content_type_of(request)[:19].lower() == "multipart/form-data"


async def stream_parts(
    request: Request, limits: Mapping[str, int], *, wait_s: float, max_bytes: int | None = None
) -> AsyncIterator[Part]:
    """The form's parts in order, each as soon as it is there; only the ones in hand are in memory.

    `limits`: the most bytes that parts of a name may have. `wait_s`: how long nothing may come. `max_bytes`:
    of the whole form; without it a form may go on for ever.

    Raises MalformedRequest, BodyTooLarge for the whole, DeadlineExceeded, and ClientGone.
    """
    form = Parts(content_type_of(request), limits)
    size = 0
    try:
        chunks = request.stream().__aiter__()
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                raise DeadlineExceeded(f"nothing of the body arrived for {wait_s:g} s") from None
            if chunk is None:
                break
            size += len(chunk)
            if max_bytes is not None and size > max_bytes:
                raise BodyTooLarge(f"the body has more than the {max_bytes} bytes that are allowed")
            form.feed(chunk)
            for part in form.finished():
                yield part
        form.check_complete()
    except ClientDisconnect:
        raise ClientGone("the client hung up while sending") from None


class Parts:
    """Takes a form's bytes and gives its finished parts; all methods raise MalformedRequest."""

    def __init__(self, content_type: str, limits: Mapping[str, int]) -> None:
        """`content_type` names the boundary; `limits`: the most bytes that parts of a name may have."""
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise MalformedRequest("the content type multipart/form-data names no boundary")
        self._limits = limits
        self._finished: list[Part] = []
        self._name = ""
        self._pieces: list[bytes] = []
        self._size = 0
        self._header = [b"", b""]
        self._disposition = b""
        self._begun = False
        self._complete = False
        with _malformed():
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
            )

    def feed(self, chunk: bytes) -> None:
        """Read on."""
        if not self._begun:
            # Behind a newline the parser would skip whatever comes before the next hyphen of the same chunk.
            chunk = chunk.lstrip(b"\r\n")
            self._begun = bool(chunk)
        with _malformed():
            self._parser.write(chunk)

    def finished(self) -> list[Part]:
        """The parts that ended since this was last asked."""
        parts, self._finished = self._finished, []
        return parts

    def check_complete(self) -> None:
        """Raise unless that was all of the form."""
        if not self._complete:
            raise MalformedRequest("the multipart form ends before its closing boundary")

    def _begin(self) -> None:
        self._name, self._pieces, self._size = "", [], 0
        self._disposition = b""

    def _header_piece(self, index: int, piece: bytes) -> None:
        self._header[index] += piece

    def _header_end(self) -> None:
        field, value = self._header
        if field.lower() == b"content-disposition":
            self._disposition = value
        self._header = [b"", b""]

    def _headers_finished(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"")
        self._name = name.decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._size <= self._limits.get(self._name, -1):
            self._pieces.append(data[start:end])
        else:
            self._pieces.clear()

    def _end(self) -> None:
        kept = self._size <= self._limits.get(self._name, -1)
        self._finished.append(Part(self._name, b"".join(self._pieces) if kept else None, self._size))
        self._pieces = []

    def _all(self) -> None:
        self._complete = True


@contextlib.contextmanager
def _malformed() -> Iterator[None]:
    try:
        yield
    except FormParserError:
        raise MalformedRequest("the body is not the multipart form that its content type announces") from None
