"""Read a request's body as it arrives, with limits in bytes and time."""

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
    """Limits of a request with an image: bytes of the body, and seconds from arrival until its job starts."""

    body_bytes: int
    deadline_s: float


def deadline_for(request: Request, bounds: Bounds) -> Deadline:
    """Return the request's deadline, counted from now or from when its form was read.

    The deadline also watches for the client's disconnect.
    """

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    form = getattr(request.state, "form", None)
    if form is None:
        return Deadline.after(bounds.deadline_s, disconnected)
    return Deadline(form.deadline.at, bounds.deadline_s, disconnected)


async def in_time(reading: Awaitable[T], deadline: Deadline) -> T:
    """Wait for the body. Raises DeadlineExceeded if it does not arrive in time."""
    try:
        async with asyncio.timeout_at(deadline.at):
            return await reading
    except TimeoutError:
        raise DeadlineExceeded(f"body: not received within {deadline.limit_s:g} s") from None


def content_type_of(request: Request) -> str:
    """Return the body's content type; empty if it has none."""
    return request.headers.get("content-type", "")


def media_type_of(request: Request) -> str:
    """Return the content type in lower case, without parameters."""
    return content_type_of(request).partition(";")[0].strip().lower()


def is_form(request: Request) -> bool:
    """Return whether the content type is multipart/form-data."""
    return media_type_of(request) == "multipart/form-data"


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body. Raises as `body_chunks` does."""
    # `join` returns a single chunk without copying it
    return b"".join([chunk async for chunk in body_chunks(request, max_bytes)])


async def body_chunks(request: Request, max_bytes: int | None = None) -> AsyncIterator[bytes]:
    """Yield the body's chunks as they arrive.

    Raises BodyTooLarge as soon as more than `max_bytes` are announced or received, and ClientGone.
    """
    announced = request.headers.get("content-length", "")
    if max_bytes is not None and announced.isdigit() and int(announced) > max_bytes:
        raise BodyTooLarge(f"body: {announced} bytes (limit: {max_bytes})")
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if max_bytes is not None and size > max_bytes:
                raise BodyTooLarge(f"body: too many bytes (limit: {max_bytes})")
            if chunk:
                yield chunk
    except ClientDisconnect:
        raise ClientGone("client: disconnected while sending the body") from None
