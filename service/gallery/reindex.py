"""Re-embed the gallery by another network in the background, then make that network the active one."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial

import structlog

from service.errors import (
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
from service.inference.pool import CorePool, Deadline
from service.inference.registry import ServedModel

log = structlog.get_logger(__name__)


_AT_ONCE = 16
"""Images between two commits: so many are embedded again after a crash."""
_DROPPED_AT_ONCE = 256
_RETRY_S = 2.0
_EMBED_LIMIT_S = 60.0


@dataclass(frozen=True)
class Progress:
    """How far the change to another network is: `done` of `total` images; `problem` says why it waits or
    has stopped, in words for a client."""

    model: str
    done: int
    total: int
    problem: str | None


class Reindexer:
    """One at a time per process. All methods belong to the event loop's thread.

    What is to be done stands in the database, so it goes on after a restart, from where it was.
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
        """Embed all images with the model of that name, then let it answer. The old one answers meanwhile.

        The model that answers already ends what was begun. Raises UnknownModel, NotReady, ModelUnavailable,
        InvalidParameter for a model that gives no embeddings, and StorageUnavailable.
        """
        model = self._networks.named(name)
        start = partial(self._vectors.start_reindex, embedder_of(model))
        await self._threads.write(self._searches.switch, start)
        log.info("reindexing", model=name)
        self.go_on()

    def go_on(self) -> None:
        """Do what the database says is to be done, in the background."""
        self._problem = None
        self._again.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def progress(self, state: GalleryState) -> Progress | None:
        """How far it is; None when nothing is being done."""
        if state.target is None:
            return None
        extent = await self._threads.read(self._vectors.extent, state.target)
        return Progress(model_name(state.target), extent.count, state.images, self._problem)

    async def close(self) -> None:
        """Stop where it is."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _work(self) -> None:
        while self._again.is_set():
            self._again.clear()
            try:
                await self._through()
            except (StorageUnavailable, NotReady, QueueFull, DeadlineExceeded) as error:
                # It will pass: what is done is kept, so the next try goes on from there.
                self._set_problem(error.detail)
                self._again.set()
                await asyncio.sleep(_RETRY_S)
            except WeighinError as error:
                self._set_problem(error.detail)  # asked for again, or after a restart, it goes on
            except Exception:
                log.exception("reindexing failed")
                self._set_problem("unexpected failure, see the log")

    async def _through(self) -> None:
        """One pass: until no image lacks an embedding, or the target is another."""
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
                # Its index is built from now on, not from the first search on.
                with contextlib.suppress(EmbeddersChanged):
                    await self._threads.read(self._searches.open_for, target, dimensions_of(model))
        while await self._threads.write(self._vectors.drop_unused, _DROPPED_AT_ONCE):
            pass

    async def _embedded(self, keys: list[int], model: ServedModel) -> dict[int, Vector]:
        """Embeddings of the images that are still there, several at a time on as many cores."""
        vectors: dict[int, Vector] = {}

        async def one(key: int) -> None:
            data = await self._threads.read(self._store.original, key)
            if data is not None:
                vectors[key] = await self._embed(key, data, model)

        for start in range(0, len(keys), self._pool.threads):
            some = keys[start : start + self._pool.threads]
            ended = await asyncio.gather(*map(one, some), return_exceptions=True)
            for error in ended:
                if error is not None:
                    raise error
        return vectors

    async def _embed(self, key: int, data: bytes, model: ServedModel) -> Vector:
        deadline = Deadline.after(_EMBED_LIMIT_S)

        def job() -> Vector:
            # Whatever the limit on pixels is now: the image was taken.
            return embed(load_for_embedding(data, model, max_pixels=1 << 62), model)

        try:
            return await self._pool.run(job, deadline)
        except (QueueFull, DeadlineExceeded):
            raise
        except WeighinError as error:
            images, _ = await self._threads.read(self._store.by_key, [key])
            name = f"image '{images[key].id}'" if key in images else "an image"
            raise ModelUnavailable(f"{name} cannot be embedded: {error.detail}") from error

    async def _state(self) -> GalleryState:
        return await self._threads.read(self._store.database.state)

    def _set_problem(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("reindexing waits", reason=problem)
        self._problem = problem
