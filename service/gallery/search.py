"""Finds images by their likes: the posted image's, or those of one that is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from service.errors import Busy, OtherModel, UnknownImage
from service.gallery.duplicates import Duplicate, duplicate, perceptual_hash
from service.gallery.embed import dimensions_of, embed, embedder_of, load_for_embedding
from service.gallery.networks import Networks
from service.gallery.records import Condition, EmbeddersChanged, StoredImage, Vector
from service.gallery.searches import Searches
from service.gallery.store import GalleryStore
from service.gallery.threads import GalleryThreads
from service.gallery.vectors import GalleryVectors
from service.inference.decoding.decode import DecodedImage
from service.inference.pool import CorePool, Deadline
from service.inference.registry import ServedModel
from service.latency.recorder import Recorder
from service.latency.stages import Durations, Stopwatch

MAX_K = 100

_ATTEMPTS = 5
_TIES = 16
"""So many more are asked for, so that of images with equal scores the first by id are told, not by chance."""
_DIGITS = 6
"""Scores are told with so many; what differs less is equal."""


@dataclass(frozen=True)
class Match:
    """A kept image, its cosine with what was asked for, and whether it is its duplicate."""

    image: StoredImage
    score: float
    duplicate: Duplicate | None


@dataclass(frozen=True)
class SearchOptions:
    """At most how many matches, from which score on, and among which images."""

    k: int = 10
    min_score: float = -1.0
    where: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class ActiveModel:
    """The model whose embeddings are searched, and how many images the gallery has."""

    model: ServedModel
    images: int


@dataclass(frozen=True)
class Retrieval:
    """The matches, best first and equal ones by id, and by which model.

    `asked` is the posted image; None when a kept one was asked with.
    """

    model: str
    matches: tuple[Match, ...]
    durations: Durations
    asked: DecodedImage | None = None


@dataclass(frozen=True, eq=False)
class _Query:
    """An image as it is compared with the stored ones."""

    sha256: str
    perceptual_hash: int
    vector: Vector


class Retriever:
    """All methods belong to the event loop's thread; StorageUnavailable where the database is down."""

    def __init__(
        self,
        networks: Networks,
        pool: CorePool,
        recorder: Recorder,
        threads: GalleryThreads,
        store: GalleryStore,
        vectors: GalleryVectors,
        searches: Searches,
        *,
        max_pixels: int,
    ) -> None:
        self._networks = networks
        self._pool = pool
        self._recorder = recorder
        self._threads = threads
        self._store = store
        self._vectors = vectors
        self._searches = searches
        self._max_pixels = max_pixels

    async def network(self, asked: str | None = None) -> ActiveModel:
        """By which model the gallery answers at the moment.

        Raises OtherModel when `asked` is another, UnknownModel when there is none of that name, and those of
        `Networks.active`.
        """
        state = await self._threads.read(self._store.database.state)
        name = self._networks.name_of(state)
        if asked is not None and asked != name:
            self._networks.named(asked)
            raise OtherModel(f"the gallery is embedded by '{name}', not by '{asked}': leave `model` out")
        return ActiveModel(self._networks.active(state), state.images)

    async def retrieve(
        self, data: bytes, options: SearchOptions, deadline: Deadline, active: ActiveModel
    ) -> Retrieval:
        """The kept images that are most like the one in `data`; what it took is recorded as `live`.

        `active` is what `network` said at the request's beginning. Raises the errors of `decode`, those of
        `CorePool.run`, and those of `Networks.active`.
        """
        for _ in range(_ATTEMPTS):
            model = active.model
            stopwatch = Stopwatch()
            image, query = await self._pool.run(partial(self._to_query, data, model, stopwatch), deadline)
            try:
                matches = await self._threads.read(self._find, query, active, options, None)
            except EmbeddersChanged:
                active = await self.network()
                continue
            stopwatch.lap("search")
            durations = stopwatch.stop()
            # Its total is not that of a classification, and the two must not be pooled.
            stages: Durations = {stage: spent for stage, spent in durations.items() if stage != "total"}
            self._recorder.record(model.name, "live", stages)
            return Retrieval(model.name, matches, durations, image)
        raise Busy("the gallery changes its network: try again")

    async def similar(self, image: StoredImage, options: SearchOptions) -> Retrieval:
        """The kept images that are most like this kept one, itself left out.

        Raises UnknownImage when it is gone by now, and those of `Networks.active`.
        """
        for _ in range(_ATTEMPTS):
            active = await self.network()
            stopwatch = Stopwatch()
            try:
                matches = await self._threads.read(self._find_similar, image, active, options)
            except EmbeddersChanged:
                continue
            stopwatch.lap("search")
            return Retrieval(active.model.name, matches, stopwatch.stop())
        raise Busy("the gallery changes its network: try again")

    def _to_query(self, data: bytes, model: ServedModel, stopwatch: Stopwatch) -> tuple[DecodedImage, _Query]:
        """On a core: the image as it is compared."""
        stopwatch.lap("queue")
        image = load_for_embedding(data, model, max_pixels=self._max_pixels, stopwatch=stopwatch)
        vector = embed(image, model, stopwatch)
        digest = hashlib.sha256(data).hexdigest()
        query = _Query(digest, perceptual_hash(image.pixels, image.box), vector)
        stopwatch.lap("postprocess")
        return image, query

    def _find_similar(
        self, image: StoredImage, active: ActiveModel, options: SearchOptions
    ) -> tuple[Match, ...]:
        embedder = embedder_of(active.model)
        keys, vectors = self._vectors.vectors(embedder, [image.key])
        if not len(keys):
            if self._store.database.state().embedder != embedder:
                raise EmbeddersChanged
            raise UnknownImage(f"there is no image '{image.id}' in the gallery any more")
        return self._find(_Query(image.sha256, image.perceptual_hash, vectors[0]), active, options, image.key)

    def _find(
        self, query: _Query, active: ActiveModel, options: SearchOptions, without: int | None
    ) -> tuple[Match, ...]:
        """On a thread that may wait for the database.

        Raises EmbeddersChanged when another network answers by now.
        """
        if active.images == 0:
            return ()
        embedder = embedder_of(active.model)
        nearest = self._searches.open_for(embedder, dimensions_of(active.model))
        found, cosines = nearest.nearest(query.vector, options.k + _TIES, options.where)
        keys: list[int] = found.tolist()
        kept, state = self._store.by_key(keys)
        if state.images and state.embedder != embedder:
            raise EmbeddersChanged
        scored = [
            (round(min(1.0, max(-1.0, float(cosine))), _DIGITS), kept[key])
            for key, cosine in zip(keys, cosines, strict=True)
            if key in kept and key != without
        ]
        scored.sort(key=lambda each: (-each[0], each[1].id))
        return _matches(query, scored[: options.k], options.min_score)


def _matches(
    query: _Query, scored: Sequence[tuple[float, StoredImage]], min_score: float
) -> tuple[Match, ...]:
    return tuple(
        Match(
            image,
            score,
            duplicate((query.sha256, image.sha256), (query.perceptual_hash, image.perceptual_hash), score),
        )
        for score, image in scored
        if score >= min_score
    )
