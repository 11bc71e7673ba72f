"""The gallery as a whole: connects its components, opens them in the background, and reports its status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from service.errors import StorageUnavailable, WeighinError
from service.gallery.database import GalleryDatabase
from service.gallery.embed import dimensions_of, embedder_of, model_name
from service.gallery.networks import KEPT_FOLDER, NetworkCopies, Networks
from service.gallery.records import EmbeddersChanged, GalleryState, Quota, SearchStatus
from service.gallery.reindex import Progress, Reindexer
from service.gallery.search import Retriever
from service.gallery.searches import Searches, open_nearest
from service.gallery.store import GalleryStore
from service.gallery.threads import GalleryThreads
from service.gallery.vectors import GalleryVectors
from service.gallery.writer import GalleryWriter
from service.inference.pool import CorePool
from service.inference.registry import Registry
from service.latency.recorder import Recorder

log = structlog.get_logger(__name__)

INDEX_FOLDER = "gallery-index"
_RETRY_S = 5.0


@dataclass(frozen=True)
class GalleryStatus:
    """Status of the gallery.

    `model`: name of the active model. `search`: status of the search, None before the first search.
    `replaced`: whether the model of this name was replaced or removed, so that the gallery uses its own copy.
    `reindexing`: progress of the re-index, None if there is no re-index.
    """

    model: str
    replaced: bool
    state: GalleryState
    quota: Quota
    search: SearchStatus | None
    reindexing: Progress | None


class Gallery:
    """The gallery. `writer` stores and deletes images, `retriever` searches, `reindexer` changes the network.

    An empty gallery uses no resources. The index of a gallery with images is opened when the service starts.
    """

    def __init__(
        self,
        registry: Registry,
        pool: CorePool,
        recorder: Recorder,
        database: GalleryDatabase,
        *,
        model: str,
        quota: Quota,
        data_dir: Path,
        copies: NetworkCopies | None = None,
        exact_up_to: int,
        max_pixels: int,
        deadline_s: float,
    ) -> None:
        """Opens neither the database nor the index.

        `model`: name of the model for a new gallery. `deadline_s`: maximum wait for a database thread.
        `copies`: copies of networks in the database that replicas share, or None if no database is shared.
        """
        self._quota = quota
        self._threads = GalleryThreads(deadline_s)
        self._networks = Networks(registry, model, data_dir / KEPT_FOLDER, copies)
        self._database = database
        self._store = store = GalleryStore(database, quota)
        vectors = GalleryVectors(database)
        self._searches = Searches(
            partial(open_nearest, vectors, folder=data_dir / INDEX_FOLDER, exact_up_to=exact_up_to),
            lambda: database.state().embedder,
        )
        self.writer = GalleryWriter(
            self._networks, pool, self._threads, store, self._searches, max_pixels=max_pixels
        )
        self.retriever = Retriever(
            self._networks,
            pool,
            recorder,
            self._threads,
            store,
            vectors,
            self._searches,
            max_pixels=max_pixels,
        )
        self.reindexer = Reindexer(self._networks, pool, self._threads, store, vectors, self._searches)
        self._opening: asyncio.Task[None] | None = None

    def open(self, models_loaded: asyncio.Future[None]) -> None:
        """Start a background task that waits for the models, opens the index and continues a re-index."""
        self._opening = asyncio.create_task(self._open(models_loaded))

    async def status(self) -> GalleryStatus:
        """Return the current status. Raises StorageUnavailable."""
        state = await self._threads.read(self._database.state)
        return GalleryStatus(
            model=self._networks.name_of(state),
            replaced=state.embedder is not None and self._networks.is_replaced(state.embedder),
            state=state,
            quota=self._quota,
            search=self._searches.status,
            reindexing=await self.reindexer.progress(state),
        )

    async def models_in_use(self) -> frozenset[str]:
        """Return the names of the models that the gallery needs: the active one and the target of a re-index.

        Raises StorageUnavailable if the database does not answer.
        """
        state = await self._threads.read(self._database.state)
        return frozenset({self._networks.name_of(state), *map(model_name, state.embedders)})

    async def pictures(self, count: int) -> AsyncIterator[bytes]:
        """Yield the original bytes of up to `count` images, ordered by id. Raises StorageUnavailable.

        Each image is read only when the caller asks for it.
        """
        images, _ = await self._threads.read(partial(self._store.page, None, count))
        for image in images:
            original = await self._threads.read(partial(self._store.original, image.key))
            if original is not None:
                yield original

    async def close(self) -> None:
        """Stop background work and save the index."""
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._opening
        await self.reindexer.close()
        await asyncio.to_thread(self._threads.close)
        await asyncio.to_thread(self._searches.close)

    async def _open(self, models_loaded: asyncio.Future[None]) -> None:
        # Start a reader thread now, so that it gets its own malloc arena. If it started later, it would reuse
        # an arena of the loading threads, and the core threads would need further arenas.
        await self._threads.read(bool)
        await asyncio.wait({models_loaded})
        while True:
            try:
                state = await self._threads.read(self._database.state)
                break
            except StorageUnavailable:
                await asyncio.sleep(_RETRY_S)
        await self._networks.open(state)
        if state.images and state.embedder is not None:
            try:
                model = self._networks.of(state.embedder)
                await self._threads.read(self._searches.open_for, embedder_of(model), dimensions_of(model))
            except EmbeddersChanged:
                pass  # another process changed the model; the first search opens its index
            except WeighinError as error:
                log.warning("gallery unavailable", reason=error.detail)
        if state.target is not None:
            self.reindexer.go_on()
        await self._networks.save_copies()
