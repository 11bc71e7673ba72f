"""Add many images in one request. Each is committed as it arrives, and few are in memory at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field

from service.api.body.parts import Part
from service.api.body.request import Bounds
from service.errors import (
    BodyTooLarge,
    EmptyBody,
    GalleryFull,
    InvalidParameter,
    MalformedRequest,
    QueueFull,
    StorageUnavailable,
    WeighinError,
)
from service.gallery.metadata import MAX_METADATA_BYTES, parse_metadata, to_json
from service.gallery.writer import GalleryWriter
from service.inference.pool import Deadline

IMAGE, METADATA = "image", "metadata"

MAX_IMAGES = 100_000
"""Maximum number of images per request, because all results stay in memory until the request ends."""

_RETRY_INTERVAL_S = 0.05


class AddedOut(BaseModel):
    """What happened to one image of the request."""

    id: str | None = Field(
        description="null if the image was rejected", examples=["9f86d081884c7d659a2feaa0c55ad015"]
    )
    status: Literal["added", "exists", "rejected"]
    detail: str | None = Field(
        description="Why it was rejected, or that its metadata were not stored; else null"
    )


class AddedResponse(BaseModel):
    """What happened to each image of the request, in the order of the images."""

    images: list[AddedOut]


@dataclass(frozen=True)
class Bulk:
    """Adds the images of one request, at most `width` images at a time.

    `bounds`: the limits of each image.
    """

    writer: GalleryWriter
    width: int
    bounds: Bounds

    @property
    def limits(self) -> dict[str, int]:
        """Maximum bytes of each part, by the part's name."""
        return {IMAGE: self.bounds.body_bytes, METADATA: MAX_METADATA_BYTES}

    async def add(self, parts: AsyncIterator[Part]) -> list[AddedOut]:
        """Add the image in each part named `image`.

        A part named `metadata` describes the image that follows it. The result of an image that cannot be
        stored is "rejected". If no image was stored, and at least one was rejected with GalleryFull or
        StorageUnavailable, the first such error is raised. If reading `parts` raises an error, the images in
        progress are finished before the error is raised.
        """
        return await _Adding(self).add(parts)


class _Adding:
    def __init__(self, bulk: Bulk) -> None:
        self._bulk = bulk
        self._results: list[AddedOut | None] = []
        self._free = asyncio.Semaphore(bulk.width)
        self._tasks: set[asyncio.Task[None]] = set()
        self._any_stored = False
        self._refusal: WeighinError | None = None  # first error whose cause is not the image
        self._storage_error: StorageUnavailable | None = None  # once set, further images are not tried

    async def add(self, parts: AsyncIterator[Part]) -> list[AddedOut]:
        metadata: Part | None = None
        names: list[str] = []
        try:
            async for part in parts:
                if part.name == METADATA:
                    _check_used(metadata)
                    metadata = part
                elif part.name == IMAGE:
                    if names:
                        raise _unknown(names[0])
                    await self._begin(part, metadata)
                    metadata = None
                elif self._results:
                    raise _unknown(part.name)
                elif len(names) < 10:
                    names.append(part.name)
        finally:
            outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        for error in outcomes:
            if isinstance(error, BaseException):
                raise error
        _check_used(metadata)
        if not self._results:
            others = ", ".join(f"'{name[:50]}'" for name in names) or "none"
            raise MalformedRequest(f"multipart form: no part named '{IMAGE}' (parts: {others})")
        if self._refusal is not None and not self._any_stored:
            raise self._refusal
        return [result for result in self._results if result is not None]

    async def _begin(self, part: Part, metadata: Part | None) -> None:
        if len(self._results) == MAX_IMAGES:
            raise BodyTooLarge(f"multipart form: more than {MAX_IMAGES} images (send the rest separately)")
        await self._free.acquire()
        self._results.append(None)
        task = asyncio.create_task(self._process(len(self._results) - 1, part, metadata))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._free.release()
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)

    async def _process(self, index: int, part: Part, metadata: Part | None) -> None:
        try:
            self._results[index] = await self._store(part, metadata)
            self._any_stored = True
        except WeighinError as error:
            if isinstance(error, StorageUnavailable):
                self._storage_error = error
            if isinstance(error, StorageUnavailable | GalleryFull):
                self._refusal = self._refusal or error
            self._results[index] = AddedOut(id=None, status="rejected", detail=error.detail)

    async def _store(self, part: Part, metadata: Part | None) -> AddedOut:
        if self._storage_error is not None:
            raise self._storage_error
        if part.data is None:
            raise BodyTooLarge(f"image: {part.size} bytes (limit: {self._bulk.bounds.body_bytes})")
        if not part.data:
            raise EmptyBody
        if metadata is not None and metadata.data is None:
            raise InvalidParameter(f"metadata: {metadata.size} bytes (limit: {MAX_METADATA_BYTES})")
        fields = parse_metadata(b"" if metadata is None or metadata.data is None else metadata.data)
        deadline = Deadline.after(self._bulk.bounds.deadline_s)
        while True:
            try:
                put = await self._bulk.writer.add(part.data, fields, deadline)
            except QueueFull:
                # Requests with a single image go first; the deadline ends this loop.
                await asyncio.sleep(_RETRY_INTERVAL_S)
                continue
            if put.status != "exists":
                return AddedOut(id=put.image.id, status="added", detail=None)
            same = metadata is None or to_json(fields) == to_json(put.image.metadata)
            detail = None if same else "stored with other metadata, which were not changed"
            return AddedOut(id=put.image.id, status="exists", detail=detail)


def _unknown(name: str) -> InvalidParameter:
    return InvalidParameter(
        f"unknown form field {name[:50]!r} (allowed: {IMAGE}, {METADATA}); the images before it were added"
    )


def _check_used(metadata: Part | None) -> None:
    if metadata is not None:
        raise MalformedRequest(
            f"multipart form: part '{METADATA}' without an image after it (order: metadata before its "
            "image); the images before it were added"
        )
