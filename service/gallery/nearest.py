"""Which images are nearest to an embedding: the seam between the gallery and the ways to search it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import Change, Condition, Extent, SearchStatus, Vector
from service.gallery.vectors import GalleryVectors
from service.storage.database import on_server


class NearestImages(Protocol):
    """The embeddings of one gallery by one network, searched. Any thread may call; `close` ends it."""

    def nearest(
        self, query: Vector, k: int, where: Sequence[Condition]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The keys of the `k` nearest images that meet `where`, and their cosines, best first.

        Whatever was committed before the call is taken into account. Raises StorageUnavailable.
        """

    def changed(self) -> None:
        """The store has committed a change."""

    @property
    def status(self) -> SearchStatus:
        """How searches go at the moment."""

    def close(self) -> None:
        """End what runs beside, and save what is worth it."""


def open_nearest(
    vectors: GalleryVectors, embedder: str, dimensions: int, *, folder: Path, exact_up_to: int
) -> NearestImages:
    """The search that fits the database. Blocks while an index file in `folder` is read.

    `folder` and `exact_up_to` are for the index of this process; one on a server looks after itself.

    Imported only here: who has no gallery loads no index library.
    """
    if on_server(vectors.database.engine):
        from service.gallery.postgres import PostgresqlNearest

        return PostgresqlNearest(vectors.database, embedder, dimensions)
    return EmbeddedNearest(vectors, embedder, dimensions, folder=folder, exact_up_to=exact_up_to)


class EmbeddedNearest:
    """The search in this process: an index that follows the database."""

    def __init__(
        self, vectors: GalleryVectors, embedder: str, dimensions: int, *, folder: Path, exact_up_to: int
    ) -> None:
        """Read the index in `folder`, or begin to build it."""
        from service.gallery.index.embedded import EmbeddedSearch

        self._vectors = vectors
        self._search = EmbeddedSearch(
            _Source(vectors, embedder), dimensions, model=embedder, folder=folder, exact_up_to=exact_up_to
        )

    def nearest(
        self, query: Vector, k: int, where: Sequence[Condition]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See NearestImages."""
        return self._search.search(query, k, partial(self._vectors.meeting, where=where) if where else None)

    def changed(self) -> None:
        """See NearestImages."""
        self._search.changed()

    @property
    def status(self) -> SearchStatus:
        """See NearestImages."""
        status = self._search.status
        return SearchStatus(status.mode, status.count)

    def close(self) -> None:
        """See NearestImages."""
        self._search.close()


class _Source:
    """One network's embeddings, as the index asks for them."""

    def __init__(self, vectors: GalleryVectors, embedder: str) -> None:
        self._vectors = vectors
        self._embedder = embedder

    def changes_after(self, sequence: int, limit: int) -> Sequence[Change]:
        return self._vectors.changes_after(self._embedder, sequence, limit)

    def vectors(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return self._vectors.vectors(self._embedder, keys)

    def extent(self) -> Extent:
        return self._vectors.extent(self._embedder)
