"""HNSW graph of usearch over float16 vectors. Only this module imports usearch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

# isort: off
import service.inference.session  # noqa: F401  onnxruntime first: loaded after usearch, it crashes the process
from usearch.compiled import MetricKind, ScalarKind
from usearch.index import Index
# isort: on

from service.gallery.index.changes import Keys, Scores, Vectors
from service.gallery.records import Vector

CONNECTIVITY = 16
EXPANSION_ADD = 96
EXPANSION_SEARCH = 192
"""Parameters of usearch's graph. docs/retrieval.md has the recall with these values."""

ROUNDING = 1e-3
"""Bound on the error of a cosine that is computed from float16 vectors.

Elements of unit vectors have relative errors up to 2**-11."""


class Graph:
    """HNSW graph of the vectors of one gallery. It is not thread-safe, so callers must lock.

    The node of a removed vector is only marked as dead. If it were removed, usearch would reuse it for the
    next vector, although the neighbours of the old vector still link to it. Recall would then fall by some
    percent each time that 20 % of the vectors are deleted and as many are added. Rebuild a graph that has
    many dead nodes.
    """

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._index = Index(
            ndim=dimensions,
            metric=MetricKind.IP,
            dtype=ScalarKind.F16,
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )
        self._dead: set[int] = set()

    def __len__(self) -> int:
        """Return the number of vectors that are not deleted."""
        return self.nodes - len(self._dead)

    def __contains__(self, key: int) -> bool:
        return key not in self._dead and bool(self._index.contains(key))

    @property
    def nodes(self) -> int:
        """Number of nodes, including dead ones."""
        return len(self._index)

    @property
    def dead(self) -> Collection[int]:
        """Keys of dead nodes."""
        return self._dead

    def keys(self) -> set[int]:
        """Keys that are not deleted."""
        return {int(key) for key in np.asarray(self._index.keys)} - self._dead

    def add(self, keys: Sequence[int], vectors: Sequence[Vector]) -> None:
        """Add vectors, or replace the vectors of keys that exist already.

        They are added one by one on this thread, because several threads would leave nodes unreachable.
        """
        known = [key for key in keys if self._index.contains(key)]
        if known:
            self._index.remove(np.array(known, dtype=np.uint64))
            self._dead.difference_update(known)
        self._index.add(np.array(keys, dtype=np.uint64), np.stack(vectors), threads=1)

    def remove(self, key: int) -> None:
        """Mark the node of a key as deleted. A key that is not in the graph is ignored."""
        if self._index.contains(key):
            self._dead.add(key)

    def nearest(self, query: Vector, count: int, *, exact: bool) -> tuple[Keys, Scores]:
        """Return the keys of the nodes nearest to `query`, nearest first, and their cosines in float16.

        `count`: number of nodes to find. These include dead nodes, so fewer keys are returned if some nodes
        are dead. `exact`: whether to compare `query` with every node.
        """
        nodes = self.nodes
        if nodes == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        found = self._index.search(query, min(count, nodes), threads=1, exact=exact)
        keys = np.asarray(found.keys).astype(np.int64)
        cosines = 1 - np.asarray(found.distances, dtype=np.float32)
        if self._dead:
            alive = np.fromiter((int(key) not in self._dead for key in keys), np.bool_, len(keys))
            keys, cosines = keys[alive], cosines[alive]
        return keys, cosines

    def write(self, path: Path) -> None:
        """Write the graph to a file, without the marks of dead nodes. Raises OSError."""
        try:
            self._index.save(str(path))
        except RuntimeError as error:  # usearch raises it for any error of the file system
            raise OSError(f"the graph cannot be written: {error}") from error

    @classmethod
    def read(cls, path: Path, dimensions: int, dead: Collection[int]) -> Graph:
        """Read the graph from a file that `write` has written completely.

        The caller must check that the file is complete, because usearch does not check this. Raises
        ValueError if the file is not a graph of vectors with `dimensions` dimensions.
        """
        graph = cls(dimensions)
        try:
            graph._index.load(str(path))
        except RuntimeError as error:
            raise ValueError(f"not a graph: {error}") from error
        if graph._index.ndim != dimensions or graph._index.dtype != ScalarKind.F16:
            raise ValueError(f"a graph of {graph._index.ndim} dimensions, {graph._index.dtype}")
        graph._dead = set(dead)
        return graph


def cosines(query: Vector, vectors: Vectors) -> Scores:
    """Return the cosine of `query` with each of the unit `vectors` (N, D), float32 (N,).

    Does not use BLAS, because it would start several threads, and the service already has one per core.
    """
    products: Scores = np.einsum("ij,j->i", vectors, query)
    return np.clip(products, np.float32(-1), np.float32(1))
