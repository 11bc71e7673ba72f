"""Similarity search: the stored images most similar to a posted image, or to a stored one."""

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
from service.inference.loading import ServedModel
from service.inference.pool import CorePool, Deadline
from service.latency.recorder import Recorder
from service.latency.stages import Durations, Stopwatch

MAX_K = 100

_ATTEMPTS = 5
_TIES = 16
"""Number of results that are requested beyond the wanted number.

So images with equal scores can be ordered by id, even at the end of the result."""
_DIGITS = 6
"""Number of decimals to which scores are rounded. Images with equal rounded scores are ordered by id."""


@dataclass(frozen=True)
class Match:
    """A stored image that a search found.

    `score`: its cosine with the query. `duplicate`: which kind of duplicate of the query it is, exact or
    near; None if it is no duplicate.
    """

    image: StoredImage
    score: float
    duplicate: Duplicate | None


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search.

    `k`: maximum number of matches. `min_score`: minimum cosine of a match, -1 to 1. `where`: conditions on
    the metadata, all of which a match must meet.
    """

    k: int = 10
    min_score: float = -1.0
    where: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class ActiveModel:
    """The model whose embeddings are searched. `images`: number of images in the gallery."""

    model: ServedModel
    images: int


@dataclass(frozen=True)
class Retrieval:
    """Result of a search.

    `model`: name of the model whose embeddings were searched. `matches`: the best match first, matches with
    equal scores by id. `image`: the posted image, or None if the query was a stored image.
    """

    model: str
    matches: tuple[Match, ...]
    durations: Durations
    image: DecodedImage | None = None


@dataclass(frozen=True, eq=False)
class _Query:
    """The image with which stored images are compared."""

    sha256: str
    perceptual_hash: int
    vector: Vector


class Retriever:
    """Finds similar images. Call all methods from the event loop's thread.

    Methods raise StorageUnavailable if the database cannot be used.
    """

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

    async def active_model(self, expected: str | None = None) -> ActiveModel:
        """Return the model whose embeddings are searched at the moment.

        Raises OtherModel if `expected` is a served model, but another one. Raises the errors of
        `Networks.named` if `expected` is not served, and the errors of `Networks.active`.
        """
        state = await self._threads.read(self._store.database.state)
        name = self._networks.name_of(state)
        if expected is not None and expected != name:
            self._networks.named(expected)
            raise OtherModel(f"model '{expected}': not the gallery's model (allowed: '{name}', or left out)")
        return ActiveModel(await self._networks.active(state), state.images)

    async def retrieve(
        self, data: bytes, options: SearchOptions, deadline: Deadline, active: ActiveModel
    ) -> Retrieval:
        """Return the stored images most similar to the image file `data`.

        The latencies are recorded in the regime `live`. `active` is what `active_model` returned before the
        body was read. Raises Busy if the gallery's network changes again and again, and the errors of
        `decode`, `CorePool.run` and `Networks.active`.
        """
        for _ in range(_ATTEMPTS):
            model = active.model
            stopwatch = Stopwatch()
            image, query = await self._pool.run(partial(self._load_query, data, model, stopwatch), deadline)
            try:
                matches = await self._threads.read(self._find, query, active, options, None)
            except EmbeddersChanged:
                active = await self.active_model()
                continue
            stopwatch.lap("search")
            durations = stopwatch.stop()
            # The total is left out, because it must not be pooled with the totals of classifications.
            stages: Durations = {stage: ns for stage, ns in durations.items() if stage != "total"}
            self._recorder.record(model.name, "live", stages, model.version, model.session.label)
            return Retrieval(model.name, matches, durations, image)
        raise Busy("gallery: its network is being changed (try again)")

    async def similar(self, image: StoredImage, options: SearchOptions) -> Retrieval:
        """Return the stored images most similar to the stored image `image`, without this image itself.

        Raises UnknownImage if `image` was deleted meanwhile, Busy if the gallery's network changes again and
        again, and the errors of `Networks.active`.
        """
        for _ in range(_ATTEMPTS):
            active = await self.active_model()
            stopwatch = Stopwatch()
            try:
                matches = await self._threads.read(self._find_similar, image, active, options)
            except EmbeddersChanged:
                continue
            stopwatch.lap("search")
            return Retrieval(active.model.name, matches, stopwatch.stop())
        raise Busy("gallery: its network is being changed (try again)")

    def _load_query(
        self, data: bytes, model: ServedModel, stopwatch: Stopwatch
    ) -> tuple[DecodedImage, _Query]:
        """Decode, hash and embed the posted image. This runs on a thread of the pool."""
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
            raise UnknownImage(f"image '{image.id}': deleted meanwhile")
        return self._find(_Query(image.sha256, image.perceptual_hash, vectors[0]), active, options, image.key)

    def _find(
        self, query: _Query, active: ActiveModel, options: SearchOptions, exclude: int | None
    ) -> tuple[Match, ...]:
        """Search for the matches of `query` and load them.

        This runs on a thread that may wait for the database. `exclude`: key of an image to leave out
        of the matches. If it is None, no image is left out. Raises EmbeddersChanged if another network has
        become active.
        """
        if active.images == 0:
            return ()
        embedder = embedder_of(active.model)
        nearest = self._searches.open_for(embedder, dimensions_of(active.model))
        nearest_keys, cosines = nearest.nearest(query.vector, options.k + _TIES, options.where)
        keys: list[int] = nearest_keys.tolist()
        images, state = self._store.by_key(keys)
        if state.images and state.embedder != embedder:
            raise EmbeddersChanged
        scored = [
            (round(min(1.0, max(-1.0, float(cosine))), _DIGITS), images[key])
            for key, cosine in zip(keys, cosines, strict=True)
            if key in images and key != exclude
        ]
        scored.sort(key=lambda pair: (-pair[0], pair[1].id))
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
