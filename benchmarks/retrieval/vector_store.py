"""Embeddings of a gallery in a real SQLite database, without images. The index is built from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, delete, insert, update

from service.gallery.database import GalleryDatabase
from service.gallery.records import Change, Extent
from service.gallery.tables import gallery_embeddings, gallery_state, gallery_tombstones
from service.gallery.vectors import GalleryVectors
from service.storage.database import open_database

EMBEDDER = "benchmark@0"
AT_ONCE = 5_000


class VectorStore:
    """Store with the methods that the index needs. Keys are change numbers, as in the service."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._engine = open_database(None, folder)
        self._database = GalleryDatabase(self._engine)
        self._vectors = GalleryVectors(self._database)
        with self._database.writing() as (_, state):
            self.sequence = state.sequence

    def put(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """Add embeddings, float32 (N, D), and return their keys, int64 (N,)."""
        keys = np.arange(self.sequence + 1, self.sequence + 1 + len(vectors))
        for start in range(0, len(keys), AT_ONCE):
            rows = [
                {"embedder": EMBEDDER, "key": int(key), "vector": vector}
                for key, vector in zip(
                    keys[start : start + AT_ONCE], vectors[start : start + AT_ONCE], strict=True
                )
            ]
            with self._database.writing() as (connection, _):
                connection.execute(insert(gallery_embeddings), rows)
                self._advance(connection, int(rows[-1]["key"]))
        return keys

    def delete(self, keys: NDArray[np.int64]) -> None:
        """Delete embeddings and write their tombstones."""
        with self._database.writing() as (connection, _):
            tombstones = [{"sequence": self.sequence + n, "key": int(key)} for n, key in enumerate(keys, 1)]
            connection.execute(insert(gallery_tombstones), tombstones)
            for start in range(0, len(keys), 500):
                batch = gallery_embeddings.c.key.in_([int(key) for key in keys[start : start + 500]])
                connection.execute(delete(gallery_embeddings).where(batch))
            self._advance(connection, self.sequence + len(keys))

    def changes_after(self, sequence: int, limit: int) -> Sequence[Change]:
        """Return the changes after a sequence number, as `VectorSource.changes_after` does."""
        return self._vectors.changes_after(EMBEDDER, sequence, limit)

    def vectors(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return which keys have a vector, and the vectors, as `VectorSource.vectors` does."""
        return self._vectors.vectors(EMBEDDER, keys)

    def extent(self) -> Extent:
        """Return the last change's number and the number of embeddings, as `VectorSource.extent` does."""
        return self._vectors.extent(EMBEDDER)

    def _advance(self, connection: Connection, sequence: int) -> None:
        connection.execute(update(gallery_state).values(sequence=sequence))
        self.sequence = sequence
