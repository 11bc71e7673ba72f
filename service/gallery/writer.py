"""Write images to the gallery: embed them, commit, and return what became of them."""

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
from service.inference.pool import CorePool, Deadline
from service.inference.registry import ServedModel

T = TypeVar("T")

_ATTEMPTS = 5
"""How often an image is embedded anew because the gallery's network changed in between."""


class GalleryWriter:
    """Stores, deletes and reads images.

    What a method that changes something has returned from is committed, and found from then on.

    All methods belong to the event loop's thread and raise StorageUnavailable where the database does not
    answer or cannot be written.
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
        """Keep the image under this id, over what was there: "added", "replaced" or "unchanged".

        Raises InvalidParameter for an impossible id, the errors of `decode`, those of `CorePool.run`,
        GalleryFull, and those of `Networks.needed`.
        """
        check_id(id)
        digest = await self._threads.read(_digest, data)
        there = await self._threads.read(self._store.get, id)
        if there is not None and there.sha256 == digest:
            described = await self._write(partial(self._store.describe, id, digest, metadata))
            if described is not None:
                return described
        put = partial(self._store.put, id, metadata=metadata)
        return await self._keep(data, put, deadline, new=there is None)

    async def add(self, data: bytes, metadata: Metadata, deadline: Deadline) -> Put:
        """Keep the image under an id of its own: "added", or "exists" if its bytes are there already.

        Raises as `put` does.
        """
        digest = await self._threads.read(_digest, data)
        there = await self._threads.read(self._store.find_by_sha256, digest)
        if there is not None:
            return Put("exists", there)
        ids = (digest[:32], digest, uuid.uuid4().hex)
        add = partial(self._store.add, metadata=metadata, ids=ids)
        return await self._keep(data, add, deadline, new=True)

    async def delete(self, id: str) -> None:
        """Remove the image. UnknownImage when there is none of that id."""
        if not await self._write(partial(self._store.delete, check_id(id))):
            raise _unknown(id)

    async def get(self, id: str) -> StoredImage:
        """The image of that id. UnknownImage when there is none."""
        found = await self._threads.read(self._store.get, check_id(id))
        if found is None:
            raise _unknown(id)
        return found

    async def original(self, image: StoredImage) -> bytes:
        """The image's own bytes. UnknownImage when it is gone by now."""
        return _there(await self._threads.read(self._store.original, image.key), image)

    async def thumbnail(self, image: StoredImage) -> bytes:
        """Its thumbnail, a JPEG. UnknownImage when it is gone by now."""
        return _there(await self._threads.read(self._store.thumbnail, image.key), image)

    async def page(
        self, after: str | None, limit: int, where: Sequence[Condition]
    ) -> tuple[list[StoredImage], int]:
        """The next images after the id `after`, by id, and how many meet `where` in all."""
        return await self._threads.read(self._store.page, after, limit, where)

    async def _keep(
        self, data: bytes, keep: Callable[[NewImage], Put], deadline: Deadline, *, new: bool
    ) -> Put:
        for _ in range(_ATTEMPTS):
            state = await self._threads.read(self._store.database.state)
            if new:
                self._store.check_room(state)
            models = await self._networks.needed(state)
            image = await self._pool.run(
                partial(prepare, data, models, max_pixels=self._max_pixels), deadline
            )
            work = partial(keep, image)
            if state.embedder is None:
                work = partial(self._keep_network_too, models[0], work)
            try:
                return await self._write(work)
            except EmbeddersChanged:
                continue
        raise Busy("the gallery changes its network: try again")

    def _keep_network_too(self, model: ServedModel, work: Callable[[], T]) -> T:
        # Before the first image: a gallery that has one has its network on disk.
        self._networks.keep(model)
        return work()

    async def _write(self, work: Callable[[], T]) -> T:
        return await self._threads.write(self._committed, work)

    def _committed(self, work: Callable[[], T]) -> T:
        # On the writer's thread: a request that is cancelled meanwhile must not keep it from the index.
        result = work()
        self._searches.notify()
        return result


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _there(content: bytes | None, image: StoredImage) -> bytes:
    if content is None:
        raise _unknown(image.id)
    return content


def _unknown(id: str) -> UnknownImage:
    return UnknownImage(f"there is no image '{id}' in the gallery")
