"""The search that is open in a gallery.

It is opened on first use, and again when another network has become active.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import Condition, EmbeddersChanged, SearchStatus, Vector
from service.gallery.vectors import GalleryVectors
from service.storage.database import on_server

T = TypeVar("T")


class NearestImages(Protocol):
    """Nearest-neighbour search over the embeddings of one network. Thread-safe."""

    def nearest(
        self, query: Vector, k: int, where: Sequence[Condition]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return keys, int64 (K,), and cosines, float32 (K,), of the `k` nearest images that match `where`.

        The nearest image comes first. All changes committed before the call are visible. Raises
        StorageUnavailable.
        """

    def notify(self) -> None:
        """Announce that a change was committed."""

    @property
    def status(self) -> SearchStatus:
        """Current status of the search."""

    def close(self) -> None:
        """Stop background work and persist the index."""


OpenNearest = Callable[[str, int], NearestImages]
"""Function that opens the search for an embedder, given the dimensions of its embeddings."""


def open_nearest(
    vectors: GalleryVectors, embedder: str, dimensions: int, *, folder: Path, exact_up_to: int
) -> NearestImages:
    """Open the search that fits the kind of database. Blocks while an index file in `folder` is read.

    `folder` and `exact_up_to` are only used with SQLite. Imports are lazy, so that a service without a
    gallery loads no index library.
    """
    if on_server(vectors.database.engine):
        from service.gallery.postgres import PostgresqlNearest

        return PostgresqlNearest(vectors.database, embedder, dimensions)
    from service.gallery.index.changes import VectorSource
    from service.gallery.index.embedded import EmbeddedSearch

    source = VectorSource(
        changes_after=partial(vectors.changes_after, embedder),
        vectors=partial(vectors.vectors, embedder),
        extent=partial(vectors.extent, embedder),
        meeting=vectors.meeting,
    )
    return EmbeddedSearch(source, dimensions, model=embedder, folder=folder, exact_up_to=exact_up_to)


class Searches:
    """Holds the open search, which is that of the active embedder. Thread-safe.

    The search of an inactive embedder must not stay open. Embeddings by this embedder are incomplete or are
    being dropped, and its index would treat the images without an embedding as deleted.
    """

    def __init__(self, open_nearest: OpenNearest, active: Callable[[], str | None]) -> None:
        """Opens no search yet. `active` is a function that returns the active embedder."""
        self._open = open_nearest
        self._active = active
        self._lock = threading.Lock()
        self._embedder: str | None = None
        self._nearest: NearestImages | None = None

    def open_for(self, embedder: str, dimensions: int) -> NearestImages:
        """Return the search of `embedder`. If it is not open, open it and close the search that is open.

        Raises EmbeddersChanged if it is not open and the embedder is not active.
        """
        with self._lock:
            if self._nearest is not None and self._embedder == embedder:
                return self._nearest
            if self._active() != embedder:
                raise EmbeddersChanged
            self._close()
            self._nearest, self._embedder = self._open(embedder, dimensions), embedder
            return self._nearest

    def switch(self, work: Callable[[], T]) -> T:
        """Run `work`, which may activate another embedder, and return its result.

        Afterwards, the open search is closed if its embedder is no longer active. Call this on the writer's
        thread, so that the search is closed before the next write.
        """
        with self._lock:
            try:
                result = work()
                is_current = self._nearest is None or self._active() == self._embedder
            except BaseException:
                self._close()  # `work` may have changed the embedder
                raise
            if not is_current:
                self._close()
            return result

    def notify(self) -> None:
        """Announce to the open search that a change was committed."""
        nearest = self._nearest
        if nearest is not None:
            nearest.notify()

    @property
    def status(self) -> SearchStatus | None:
        """Status of the open search, or None if no search is open."""
        nearest = self._nearest
        return None if nearest is None else nearest.status

    def close(self) -> None:
        """Close the search, if one is open."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        nearest, self._nearest, self._embedder = self._nearest, None, None
        if nearest is not None:
            nearest.close()
