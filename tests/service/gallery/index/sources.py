"""A store of embeddings in memory, and embeddings to put there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import StorageUnavailable
from service.gallery.records import Change, Extent


class Rows:
    """Rows and tombstones with ever growing numbers, as the database keeps them; `away` when it is not."""

    def __init__(self) -> None:
        self.sequence = 0
        self.rows: dict[int, NDArray[np.float32]] = {}
        self.gone: list[tuple[int, int]] = []
        self.away = False
        self.largest_read = 0

    def put(self, vector: NDArray[np.float32]) -> int:
        self.sequence += 1
        self.rows[self.sequence] = vector
        return self.sequence

    def delete(self, key: int) -> None:
        self.sequence += 1
        del self.rows[key]
        self.gone.append((self.sequence, key))

    def changes_after(self, sequence: int, limit: int) -> Sequence[Change]:
        self._read()
        changes = [Change(key, key, vector) for key, vector in self.rows.items() if key > sequence]
        changes += [Change(number, key, None) for number, key in self.gone if number > sequence]
        changes = sorted(changes, key=lambda change: change.sequence)[:limit]
        self.largest_read = max(self.largest_read, len(changes))
        return changes

    def vectors(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        self._read()
        there = [int(key) for key in keys if int(key) in self.rows][::-1]
        return np.array(there, np.int64), np.array([self.rows[key] for key in there], np.float32)

    def extent(self) -> Extent:
        self._read()
        return Extent(self.sequence, len(self.rows))

    def exact(self, query: NDArray[np.float32], k: int, keep: set[int] | None = None) -> list[int]:
        """The keys of the `k` nearest, by comparing all."""
        keys = [key for key in self.rows if keep is None or key in keep]
        scores = {key: float(self.rows[key] @ query) for key in keys}
        return sorted(keys, key=lambda key: (-scores[key], key))[:k]

    def _read(self) -> None:
        if self.away:
            raise StorageUnavailable("the database is away")


def unit_vectors(count: int, dimensions: int = 32, seed: int = 0) -> NDArray[np.float32]:
    """Random vectors of length 1, float32 (count, dimensions), in twenty clusters as pictures form them."""
    random = np.random.default_rng([seed, dimensions])
    centres = np.random.default_rng(dimensions).normal(size=(20, dimensions))
    vectors = centres[random.integers(20, size=count)] + random.normal(0, 0.5, (count, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
