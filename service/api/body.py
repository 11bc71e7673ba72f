"""The image in a request's body: raw bytes, or the part `image` of a form; cut off when too large."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.api.parts import Part, Parts, content_type_of, is_form
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
    chunks = _bounded(request, max_bytes)
    if is_form(request):
        return await _read_part(chunks, Parts(content_type_of(request), {PART: max_bytes}))
    return b"".join([chunk async for chunk in chunks])  # of one chunk, that chunk itself


async def _bounded(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLarge(f"the body has more than the {max_bytes} bytes that are allowed")
        if chunk:
            yield chunk


async def _read_part(chunks: AsyncIterator[bytes], form: Parts) -> bytes:
    parts: list[Part] = []
    async for chunk in chunks:
        form.feed(chunk)
        parts += form.finished()
    form.check_complete()
    images = [part.data for part in parts if part.name == PART]
    if len(images) != 1 or images[0] is None:
        found = ", ".join(f"'{part.name[:50]}'" for part in parts[:10]) or "none"
        raise MalformedRequest(f"the form needs one part named '{PART}'; its parts are: {found}")
    return images[0]
