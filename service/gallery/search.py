"""Finds images by their likes: the posted image's, or those of one that is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from models.zoo.preprocess import preprocess
from service.errors import Busy, OtherModel, UnknownImage
from service.gallery.duplicates import Duplicate, duplicate
from service.gallery.embed import OUTPUT, decode_for, dimensions_of, embedder_of, normalised
from service.gallery.networks import Networks
from service.gallery.perceptual_hash import perceptual_hash
from service.gallery.records import Condition, EmbeddersChanged, StoredImage, Vector
from service.gallery.searches import Searches
from service.gallery.store import GalleryStore
from service.gallery.threads import GalleryThreads
from service.gallery.vectors import GalleryVectors
from service.inference.decoding.decode import DecodedImage
from service.inference.pool import CorePool, Patience
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
class Wish:
    """How many matches at most, from which score on, and among which images."""

    k: int = 10
    min_score: float = -1.0
    where: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Answering:
    """By which model the gallery answers, and how many images it has."""

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
class _Seen:
    """What an image is compared by."""

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

    async def network(self, asked: str | None = None) -> Answering:
        """By which model the gallery answers at the moment.

        Raises OtherModel when `asked` is another, UnknownModel when there is none of that name, and those of
        `Networks.answering`.
        """
        state = await self._threads.read(self._store.database.state)
        name = self._networks.name_of(state)
        if asked is not None and asked != name:
            self._networks.named(asked)
            raise OtherModel(f"the gallery is embedded by '{name}', not by '{asked}': leave `model` out")
        return Answering(self._networks.answering(state), state.images)

    async def retrieve(self, data: bytes, wish: Wish, patience: Patience, answering: Answering) -> Retrieval:
        """The kept images that are most like the one in `data`; what it took is recorded as `live`.

        `answering` is what `network` said at the request's beginning. Raises the errors of `decode`, those of
        `CorePool.run`, and those of `Networks.answering`.
        """
        for _ in range(_ATTEMPTS):
            model = answering.model
            stopwatch = Stopwatch()
            image, seen = await self._pool.run(partial(self._see, data, model, stopwatch), patience)
            try:
                matches = await self._threads.read(self._find, seen, answering, wish, None)
            except EmbeddersChanged:
                answering = await self.network()
                continue
            stopwatch.lap("search")
            durations = stopwatch.stop()
            # Its total is not that of a classification, and the two must not be pooled.
            stages: Durations = {stage: spent for stage, spent in durations.items() if stage != "total"}
            self._recorder.record(model.name, "live", stages, model.version)
            return Retrieval(model.name, matches, durations, image)
        raise Busy("the gallery changes its network: try again")

    async def similar(self, image: StoredImage, wish: Wish) -> Retrieval:
        """The kept images that are most like this kept one, itself left out.

        Raises UnknownImage when it is gone by now, and those of `Networks.answering`.
        """
        for _ in range(_ATTEMPTS):
            answering = await self.network()
            stopwatch = Stopwatch()
            try:
                matches = await self._threads.read(self._find_similar, image, answering, wish)
            except EmbeddersChanged:
                continue
            stopwatch.lap("search")
            return Retrieval(answering.model.name, matches, stopwatch.stop())
        raise Busy("the gallery changes its network: try again")

    def _see(self, data: bytes, model: ServedModel, stopwatch: Stopwatch) -> tuple[DecodedImage, _Seen]:
        """On a core: the image as it is compared."""
        stopwatch.lap("queue")
        image = decode_for(model, data, max_pixels=self._max_pixels)
        stopwatch.lap("decode")
        tensor = preprocess(image.pixels, model.card.input, box=image.box)
        stopwatch.lap("preprocess")
        embedding = model.session.run(tensor, (OUTPUT,))[OUTPUT][0]
        stopwatch.lap("inference")
        digest = hashlib.sha256(data).hexdigest()
        seen = _Seen(digest, perceptual_hash(image.pixels, image.box), normalised(embedding))
        stopwatch.lap("postprocess")
        return image, seen

    def _find_similar(self, image: StoredImage, answering: Answering, wish: Wish) -> tuple[Match, ...]:
        embedder = embedder_of(answering.model)
        keys, vectors = self._vectors.vectors(embedder, [image.key])
        if not len(keys):
            if self._store.database.state().embedder != embedder:
                raise EmbeddersChanged
            raise UnknownImage(f"there is no image '{image.id}' in the gallery any more")
        return self._find(_Seen(image.sha256, image.perceptual_hash, vectors[0]), answering, wish, image.key)

    def _find(self, seen: _Seen, answering: Answering, wish: Wish, without: int | None) -> tuple[Match, ...]:
        """On a thread that may wait for the database.

        Raises EmbeddersChanged when another network answers by now.
        """
        if answering.images == 0:
            return ()
        embedder = embedder_of(answering.model)
        nearest = self._searches.by(embedder, dimensions_of(answering.model))
        found, cosines = nearest.nearest(seen.vector, wish.k + _TIES, wish.where)
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
        return _matches(seen, scored[: wish.k], wish.min_score)


def _matches(seen: _Seen, scored: Sequence[tuple[float, StoredImage]], min_score: float) -> tuple[Match, ...]:
    return tuple(
        Match(
            image,
            score,
            duplicate((seen.sha256, image.sha256), (seen.perceptual_hash, image.perceptual_hash), score),
        )
        for score, image in scored
        if score >= min_score
    )
