"""Re-index: re-embed all images with another network in the background, then activate it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial

import structlog

from service.errors import (
    Busy,
    DeadlineExceeded,
    ModelUnavailable,
    NotReady,
    QueueFull,
    StorageUnavailable,
    WeighinError,
)
from service.gallery.embed import dimensions_of, embed, embedder_of, load_for_embedding, model_name
from service.gallery.networks import Networks
from service.gallery.records import EmbeddersChanged, GalleryState, Vector
from service.gallery.searches import Searches
from service.gallery.store import GalleryStore
from service.gallery.threads import GalleryThreads
from service.gallery.vectors import GalleryVectors
from service.inference.loading import ServedModel
from service.inference.pool import CorePool, Deadline

log = structlog.get_logger(__name__)


_AT_ONCE = 16
"""Number of images whose embeddings are committed together.

After a crash, at most this many are embedded again."""
_DROPPED_AT_ONCE = 256
_RETRY_S = 2.0
_EMBED_LIMIT_S = 60.0


@dataclass(frozen=True)
class Progress:
    """Progress of a re-index.

    `model`: name of the new model. `done`: number of images with an embedding by this model, of `total`
    images. `problem`: why the re-index waits or has stopped, in words for clients; None if it does neither.
    """

    model: str
    done: int
    total: int
    problem: str | None


class Reindexer:
    """Runs one re-index at a time. Call all methods from the event loop's thread.

    The state of a re-index is in the database, so the re-index continues after a restart.
    """

    def __init__(
        self,
        networks: Networks,
        pool: CorePool,
        threads: GalleryThreads,
        store: GalleryStore,
        vectors: GalleryVectors,
        searches: Searches,
    ) -> None:
        self._networks = networks
        self._pool = pool
        self._threads = threads
        self._store = store
        self._vectors = vectors
        self._searches = searches
        self._task: asyncio.Task[None] | None = None
        self._again = asyncio.Event()
        self._problem: str | None = None

    async def begin(self, name: str) -> None:
        """Start to re-embed all images with the model `name`, which is activated at the end.

        If `name` is the active model, a re-index under way is cancelled. Raises UnknownModel, NotReady,
        ModelUnavailable and StorageUnavailable. Raises InvalidParameter if the model cannot compute
        embeddings, and Busy if the model is being replaced.
        """
        model = self._networks.named(name)

        def start() -> None:
            self._networks.keep(model)
            self._vectors.start_reindex(embedder_of(model))

        try:
            await self._threads.write(self._searches.switch, start)
        except EmbeddersChanged:
            raise Busy(f"model '{name}' was replaced at this moment: try again") from None
        log.info("reindexing", model=name)
        self.go_on()

    def go_on(self) -> None:
        """Start or continue, in the background, the re-index that the database records."""
        self._problem = None
        self._again.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def progress(self, state: GalleryState) -> Progress | None:
        """Return the progress of the re-index, or None if there is no re-index."""
        if state.target is None:
            return None
        extent = await self._threads.read(self._vectors.extent, state.target)
        return Progress(model_name(state.target), extent.count, state.images, self._problem)

    async def close(self) -> None:
        """Stop the background work. The next process continues the re-index."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _work(self) -> None:
        while self._again.is_set():
            self._again.clear()
            try:
                await self._reindex()
            except (StorageUnavailable, NotReady, QueueFull, DeadlineExceeded) as error:
                # A temporary error: progress is committed, so the next attempt continues from there.
                self._set_problem(error.detail)
                self._again.set()
                await asyncio.sleep(_RETRY_S)
            except WeighinError as error:
                self._set_problem(error.detail)  # continues on request or after a restart
            except Exception:
                log.exception("re-index failed")
                self._set_problem("unexpected error (see the log)")

    async def _reindex(self) -> None:
        """Do the re-index that the database records, if any, then drop the embeddings of unused networks.

        As long as the database names a network as the target, embed all images with this network and activate
        it.
        """
        while (state := await self._state()).target is not None:
            target = state.target
            model = self._networks.of(target)
            after = 0
            while keys := await self._threads.read(self._vectors.missing, target, after, _AT_ONCE):
                vectors = await self._embedded(keys, model)
                await self._threads.write(self._vectors.backfill, target, vectors)
                after = keys[-1]
                self._problem = None
                if (await self._state()).target != target:
                    break
            activate = partial(self._vectors.activate, target)
            if await self._threads.write(self._searches.switch, activate):
                log.info("reindexed", model=model.name)
                # Build the model's index now, not on the first search.
                with contextlib.suppress(EmbeddersChanged):
                    await self._threads.read(self._searches.open_for, target, dimensions_of(model))
        while await self._threads.write(self._vectors.drop_unused, _DROPPED_AT_ONCE):
            pass
        await self._threads.write(self._release)

    async def _embedded(self, keys: list[int], model: ServedModel) -> dict[int, Vector]:
        """Return the embeddings of those images in `keys` that still exist, computed on all cores."""
        vectors: dict[int, Vector] = {}

        async def embed_image(key: int) -> None:
            data = await self._threads.read(self._store.original, key)
            if data is not None:
                vectors[key] = await self._embed(key, data, model)

        for start in range(0, len(keys), self._pool.threads):
            batch = keys[start : start + self._pool.threads]
            errors = await asyncio.gather(*map(embed_image, batch), return_exceptions=True)
            for error in errors:
                if error is not None:
                    raise error
        return vectors

    async def _embed(self, key: int, data: bytes, model: ServedModel) -> Vector:
        deadline = Deadline.after(_EMBED_LIMIT_S)

        def job() -> Vector:
            # No limit on pixels: the image was accepted before.
            return embed(load_for_embedding(data, model, max_pixels=1 << 62), model)

        try:
            return await self._pool.run(job, deadline)
        except (QueueFull, DeadlineExceeded):
            raise
        except WeighinError as error:
            images, _ = await self._threads.read(self._store.by_key, [key])
            name = f"image '{images[key].id}'" if key in images else "image"
            raise ModelUnavailable(f"{name}: cannot be embedded: {error.detail}") from error

    def _release(self) -> None:
        # Runs on the writer's thread, as `start` in `begin` does. So it cannot run after `start` has copied a
        # network and before `start` has made it the target.
        state = self._store.database.state()
        if state.embedder is not None:
            self._networks.release(state.embedders)

    async def _state(self) -> GalleryState:
        return await self._threads.read(self._store.database.state)

    def _set_problem(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("re-index waits", reason=problem)
        self._problem = problem
