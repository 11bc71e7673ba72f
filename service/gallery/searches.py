"""The open search of a gallery: made when it is first needed, and anew when another network is active."""

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
    """The embeddings of one gallery by one network, searched. Any thread may call; `close` ends it."""

    def nearest(
        self, query: Vector, k: int, where: Sequence[Condition]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The keys of the `k` nearest images that meet `where`, and their cosines, best first.

        Whatever was committed before the call is taken into account. Raises StorageUnavailable.
        """

    def notify(self) -> None:
        """Take note that the store has committed a change."""

    @property
    def status(self) -> SearchStatus:
        """How searches go at the moment."""

    def close(self) -> None:
        """End what runs beside, and save what is worth it."""


OpenNearest = Callable[[str, int], NearestImages]
"""Opens the search by an embedder whose embeddings have that many dimensions."""


def open_nearest(
    vectors: GalleryVectors, embedder: str, dimensions: int, *, folder: Path, exact_up_to: int
) -> NearestImages:
    """Open the search that fits the database. Blocks while an index file in `folder` is read.

    `folder` and `exact_up_to` are for the index of this process; one on a server looks after itself. Either
    is imported here, so that a service without a gallery loads no index library.
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
    """The search by the active embedder. Methods may be called by any thread.

    No search is open by an embedder that is not active: its embeddings are being dropped, or do not all
    exist yet, and an index that followed them would take what is missing for gone.
    """

    def __init__(self, open_nearest: OpenNearest, active: Callable[[], str | None]) -> None:
        """Opens nothing yet. `active` returns the embedder that is active."""
        self._open = open_nearest
        self._active = active
        self._lock = threading.Lock()
        self._embedder: str | None = None
        self._nearest: NearestImages | None = None

    def open_for(self, embedder: str, dimensions: int) -> NearestImages:
        """Return the search by this embedder. Blocks while it is opened; a search by another is closed.

        Raises EmbeddersChanged when another one is active.
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
        """Do `work`, which may activate another embedder, on the thread that writes; close a search by an
        embedder that is not active any more before anything else is written."""
        with self._lock:
            try:
                result = work()
                still = self._nearest is None or self._active() == self._embedder
            except BaseException:
                self._close()  # who knows whether it was done
                raise
            if not still:
                self._close()
            return result

    def notify(self) -> None:
        """Tell the open search that the store has committed a change."""
        nearest = self._nearest
        if nearest is not None:
            nearest.notify()

    @property
    def status(self) -> SearchStatus | None:
        """How searches go; None while nothing was searched for."""
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
