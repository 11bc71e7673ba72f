"""Write images to the gallery: embed them, commit them, and announce them to the search."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from service.errors import Busy, UnknownImage
from service.gallery.embed import prepare
from service.gallery.metadata import check_id
from service.gallery.networks import Networks
from service.gallery.records import (
    Condition,
    EmbeddersChanged,
    Metadata,
    NewImage,
    Put,
    StoredImage,
)
from service.gallery.searches import Searches
from service.gallery.store import GalleryStore
from service.gallery.threads import GalleryThreads
from service.inference.loading import ServedModel
from service.inference.pool import CorePool, Deadline

T = TypeVar("T")

_ATTEMPTS = 5
"""Maximum number of attempts to embed an image if the gallery's network changes meanwhile."""


class GalleryWriter:
    """Stores, deletes and reads images.

    When a method that writes returns, the change is durable and visible to searches. Call all methods from
    the event loop's thread. They raise StorageUnavailable if the database cannot be used.
    """

    def __init__(
        self,
        networks: Networks,
        pool: CorePool,
        threads: GalleryThreads,
        store: GalleryStore,
        searches: Searches,
        *,
        max_pixels: int,
    ) -> None:
        self._networks = networks
        self._pool = pool
        self._threads = threads
        self._store = store
        self._searches = searches
        self._max_pixels = max_pixels

    async def put(self, id: str, data: bytes, metadata: Metadata, deadline: Deadline) -> Put:
        """Store an image under `id`, or replace the image that has this id.

        The status of the result is "added", "replaced" or "unchanged". Raises InvalidParameter for an invalid
        id, GalleryFull, and the errors of `decode`, `CorePool.run` and `Networks.needed`.
        """
        check_id(id)
        digest = await self._threads.read(_digest, data)
        existing = await self._threads.read(self._store.get, id)
        if existing is not None and existing.sha256 == digest:
            described = await self._write(partial(self._store.describe, id, digest, metadata))
            if described is not None:
                return described
        put = partial(self._store.put, id, metadata=metadata)
        return await self._embed_and_write(data, put, deadline, new=existing is None)

    async def add(self, data: bytes, metadata: Metadata, deadline: Deadline) -> Put:
        """Store an image under a generated id, unless its bytes are stored already.

        The status of the result is "added", or "exists" if the bytes are stored already. Raises the errors of
        `put`.
        """
        digest = await self._threads.read(_digest, data)
        existing = await self._threads.read(self._store.find_by_sha256, digest)
        if existing is not None:
            return Put("exists", existing)
        ids = (digest[:32], digest, uuid.uuid4().hex)
        add = partial(self._store.add, metadata=metadata, ids=ids)
        return await self._embed_and_write(data, add, deadline, new=True)

    async def delete(self, id: str) -> None:
        """Delete the image with this id. Raises UnknownImage if there is no such image."""
        if not await self._write(partial(self._store.delete, check_id(id))):
            raise _unknown(id)

    async def get(self, id: str) -> StoredImage:
        """Return the image with this id. Raises UnknownImage if there is no such image."""
        image = await self._threads.read(self._store.get, check_id(id))
        if image is None:
            raise _unknown(id)
        return image

    async def original(self, image: StoredImage) -> bytes:
        """Return the bytes of the image's original file. Raises UnknownImage if it was deleted meanwhile."""
        return _existing(await self._threads.read(self._store.original, image.key), image)

    async def thumbnail(self, image: StoredImage) -> bytes:
        """Return the image's thumbnail, a JPEG. Raises UnknownImage if the image was deleted meanwhile."""
        return _existing(await self._threads.read(self._store.thumbnail, image.key), image)

    async def page(
        self, after: str | None, limit: int, where: Sequence[Condition]
    ) -> tuple[list[StoredImage], int]:
        """Return the next `limit` images after the id `after`, ordered by id, and the number of all matches.

        Only images that meet all conditions in `where` are returned and counted.
        """
        return await self._threads.read(self._store.page, after, limit, where)

    async def _embed_and_write(
        self, data: bytes, write: Callable[[NewImage], Put], deadline: Deadline, *, new: bool
    ) -> Put:
        for _ in range(_ATTEMPTS):
            state = await self._threads.read(self._store.database.state)
            if new:
                self._store.check_room(state)
            models = await self._networks.needed(state)
            image = await self._pool.run(
                partial(prepare, data, models, max_pixels=self._max_pixels), deadline
            )
            work = partial(write, image)
            if state.embedder is None:
                work = partial(self._keep_network_too, models[0], work)
            try:
                return await self._write(work)
            except EmbeddersChanged:
                continue
        raise Busy("gallery: its network is being changed (try again)")

    def _keep_network_too(self, model: ServedModel, work: Callable[[], T]) -> T:
        # Called only before the first image; later, the network is on disk already.
        self._networks.keep(model)
        return work()

    async def _write(self, work: Callable[[], T]) -> T:
        return await self._threads.write(self._committed, work)

    def _committed(self, work: Callable[[], T]) -> T:
        # Runs on the writer's thread, so that the index is notified even if the request is cancelled.
        result = work()
        self._searches.notify()
        return result


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _existing(content: bytes | None, image: StoredImage) -> bytes:
    if content is None:
        raise _unknown(image.id)
    return content


def _unknown(id: str) -> UnknownImage:
    return UnknownImage(f"image '{id}': not in the gallery")
