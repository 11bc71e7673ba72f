"""A request's body as it arrives: its media type, and its limits in bytes and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.errors import BodyTooLarge, ClientGone, DeadlineExceeded
from service.inference.pool import Deadline

T = TypeVar("T")


@dataclass(frozen=True)
class Bounds:
    """Limits of a request with an image: bytes of its body, and seconds from its arrival to its turn."""

    body_bytes: int
    deadline_s: float


def deadline_for(request: Request, bounds: Bounds) -> Deadline:
    """Return the deadline of a request that arrived now, or before its form was read; its client may hang up
    earlier."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    form = getattr(request.state, "form", None)
    if form is None:
        return Deadline.after(bounds.deadline_s, disconnected)
    return Deadline(form.deadline.at, bounds.deadline_s, disconnected)


async def in_time(reading: Awaitable[T], deadline: Deadline) -> T:
    """Wait for the body. DeadlineExceeded when it is not there in time."""
    try:
        async with asyncio.timeout_at(deadline.at):
            return await reading
    except TimeoutError:
        raise DeadlineExceeded(f"the body did not arrive within {deadline.limit_s:g} s") from None


def content_type_of(request: Request) -> str:
    """Return the body's content type; empty where it has none."""
    return request.headers.get("content-type", "")


def media_type_of(request: Request) -> str:
    """Return the content type in lower case, without parameters."""
    return content_type_of(request).partition(";")[0].strip().lower()


def is_form(request: Request) -> bool:
    """Whether the body is a multipart form, by its content type."""
    return media_type_of(request) == "multipart/form-data"


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body. Raises as `body_chunks` does."""
    # of one chunk, that chunk itself
    return b"".join([chunk async for chunk in body_chunks(request, max_bytes)])


async def body_chunks(request: Request, max_bytes: int | None = None) -> AsyncIterator[bytes]:
    """Yield the body's chunks as they arrive.

    Raises BodyTooLarge as soon as more than `max_bytes` are announced or have arrived, and ClientGone.
    """
    announced = request.headers.get("content-length", "")
    if max_bytes is not None and announced.isdigit() and int(announced) > max_bytes:
        raise BodyTooLarge(f"the body has {announced} bytes; {max_bytes} are allowed")
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if max_bytes is not None and size > max_bytes:
                raise BodyTooLarge(f"the body has more than the {max_bytes} bytes that are allowed")
            if chunk:
                yield chunk
    except ClientDisconnect:
        raise ClientGone("the client hung up while sending") from None
