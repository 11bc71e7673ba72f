"""The image in a request's body: raw bytes, or the part `image` of a form; cut off when too large."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from service.errors import BodyTooLarge, ClientGone, DeadlineExceeded, EmptyBody, MalformedRequest
from service.pool import Patience

PART = "image"

OPENAPI_BODY = {
    "requestBody": {
        "required": True,
        "description": "The image: as the raw body (any content type), or as a file part named `image`.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [PART],
                    "properties": {PART: {"type": "string", "format": "binary"}},
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
"""What FastAPI cannot derive: the handlers read the body themselves, as it comes in."""


async def read_image(request: Request, max_bytes: int, patience: Patience) -> bytes:
    """The bytes of the posted image.

    Raises BodyTooLarge as soon as more than `max_bytes` are announced or have come, DeadlineExceeded when the
    body is not there in time, MalformedRequest for a broken form or one without the part, EmptyBody.
    """
    _check_announced(request, max_bytes)
    try:
        async with asyncio.timeout_at(patience.deadline):
            data = await _read(request, max_bytes)
    except TimeoutError:
        raise DeadlineExceeded(f"the body did not arrive within {patience.deadline_s:g} s") from None
    except ClientDisconnect:
        raise ClientGone("the client hung up while sending") from None
    if not data:
        raise EmptyBody("the body holds no image: send its bytes, or a form with a file part named 'image'")
    return data


def _check_announced(request: Request, max_bytes: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise BodyTooLarge(f"the body has {announced} bytes; {max_bytes} are allowed")


async def _read(request: Request, max_bytes: int) -> bytes:
    content_type = request.headers.get("content-type", "")
    if content_type[:19].lower() == "multipart/form-data":
        return await _read_part(_bounded(request, max_bytes), content_type)
    chunks = [chunk async for chunk in _bounded(request, max_bytes)]
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _bounded(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLarge(f"the body has more than the {max_bytes} bytes that are allowed")
        if chunk:
            yield chunk


async def _read_part(chunks: AsyncIterator[bytes], content_type: str) -> bytes:
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedRequest("the content type multipart/form-data names no boundary")
    try:
        form = _Form(boundary)
        async for chunk in chunks:
            form.feed(chunk)
        return form.finish()
    except FormParserError:
        raise MalformedRequest("the body is not the multipart form that its content type announces") from None


class _Form:
    """Collects the one part named `image` of a multipart form as it comes in."""

    def __init__(self, boundary: bytes) -> None:
        self._parts: list[list[bytes]] = []
        self._names: list[str] = []
        self._complete = False
        self._header = [b"", b""]
        self._disposition = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": lambda data, start, end: self._header_piece(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._header_piece(1, data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        self._parser.write(chunk)

    def finish(self) -> bytes:
        if not self._complete:
            raise MalformedRequest("the multipart form ends before its closing boundary")
        images = [part for name, part in zip(self._names, self._parts, strict=True) if name == PART]
        if len(images) != 1:
            found = ", ".join(f"'{name[:50]}'" for name in self._names[:10]) or "none"
            raise MalformedRequest(f"the form needs one part named '{PART}'; its parts are: {found}")
        return images[0][0] if len(images[0]) == 1 else b"".join(images[0])

    def _part_begin(self) -> None:
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
        self._names.append(name.decode("utf-8", "replace"))
        self._parts.append([])

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._names[-1] == PART:
            self._parts[-1].append(data[start:end])

    def _end(self) -> None:
        self._complete = True
