"""Many images in one request: each is kept as soon as it is there, and few are in memory at a time."""

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
"""Of one request: what became of each has to be remembered until its end."""

_TRY_AGAIN_S = 0.05


class AddedOut(BaseModel):
    """What became of one of many images."""

    id: str | None = Field(
        description="null where it was rejected", examples=["9f86d081884c7d659a2feaa0c55ad015"]
    )
    status: Literal["added", "exists", "rejected"]
    detail: str | None = Field(description="Why it was rejected, or what was not done")


class AddedResponse(BaseModel):
    """What became of each image, in the order in which they came."""

    images: list[AddedOut]


@dataclass(frozen=True)
class Bulk:
    """Adds the images of one request, `width` of them at a time; each has the limits of a single image."""

    writer: GalleryWriter
    width: int
    bounds: Bounds

    @property
    def limits(self) -> dict[str, int]:
        """The most bytes that a part of each name may have."""
        return {IMAGE: self.bounds.body_bytes, METADATA: MAX_METADATA_BYTES}

    async def add(self, parts: AsyncIterator[Part]) -> list[AddedOut]:
        """What became of each part named `image`; a part named `metadata` describes the image after it.

        An image that cannot be kept is "rejected" and the others go on. Where none was kept because the
        gallery is full or cannot be written, that is raised; so is what `parts` raises, once what was begun
        has ended.
        """
        return await _Adding(self).add(parts)


class _Adding:
    def __init__(self, bulk: Bulk) -> None:
        self._bulk = bulk
        self._results: list[AddedOut | None] = []
        self._free = asyncio.Semaphore(bulk.width)
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept = False
        self._refusal: WeighinError | None = None  # the first that is not about the image itself
        self._broken: StorageUnavailable | None = None  # then no other one needs to be tried

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
            ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error
        _check_used(metadata)
        if not self._results:
            found = ", ".join(f"'{name[:50]}'" for name in names) or "none"
            raise MalformedRequest(f"the form needs parts named '{IMAGE}'; its other parts are: {found}")
        if self._refusal is not None and not self._kept:
            raise self._refusal
        return [result for result in self._results if result is not None]

    async def _begin(self, part: Part, metadata: Part | None) -> None:
        if len(self._results) == MAX_IMAGES:
            raise BodyTooLarge(f"a request may have {MAX_IMAGES} images; send the others in another one")
        await self._free.acquire()
        self._results.append(None)
        task = asyncio.create_task(self._one(len(self._results) - 1, part, metadata))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._free.release()
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)

    async def _one(self, place: int, part: Part, metadata: Part | None) -> None:
        try:
            self._results[place] = await self._added(part, metadata)
            self._kept = True
        except WeighinError as error:
            if isinstance(error, StorageUnavailable):
                self._broken = error
            if isinstance(error, StorageUnavailable | GalleryFull):
                self._refusal = self._refusal or error
            self._results[place] = AddedOut(id=None, status="rejected", detail=error.detail)

    async def _added(self, part: Part, metadata: Part | None) -> AddedOut:
        if self._broken is not None:
            raise self._broken
        if part.data is None:
            most = self._bulk.bounds.body_bytes
            raise BodyTooLarge(f"the image has {part.size} bytes; {most} are allowed")
        if not part.data:
            raise EmptyBody
        if metadata is not None and metadata.data is None:
            raise InvalidParameter(f"metadata has {metadata.size} bytes; {MAX_METADATA_BYTES} are allowed")
        fields = parse_metadata(b"" if metadata is None or metadata.data is None else metadata.data)
        deadline = Deadline.after(self._bulk.bounds.deadline_s)
        while True:
            try:
                put = await self._bulk.writer.add(part.data, fields, deadline)
            except QueueFull:
                # The single requests that wait go first; this one ends when its deadline does.
                await asyncio.sleep(_TRY_AGAIN_S)
                continue
            if put.status != "exists":
                return AddedOut(id=put.image.id, status="added", detail=None)
            kept = metadata is None or to_json(fields) == to_json(put.image.metadata)
            detail = None if kept else "it is there with other metadata, which were left as they are"
            return AddedOut(id=put.image.id, status="exists", detail=detail)


def _unknown(name: str) -> InvalidParameter:
    return InvalidParameter(
        f"unknown form field {name[:50]!r} (allowed: {IMAGE}, {METADATA}); the images before it were kept"
    )


def _check_used(metadata: Part | None) -> None:
    if metadata is not None:
        raise MalformedRequest(
            f"a part named '{METADATA}' stands before the image that it describes, and no image follows; "
            "the images before it were kept"
        )
