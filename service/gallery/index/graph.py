"""usearch's HNSW graph over float16 vectors, and nothing else imports usearch."""

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
"""With these, docs/retrieval.md measures the recall."""

ROUNDING = 1e-3
"""How far a float16 cosine may be from the float32 one: each unit vector is off by at most 2**-11."""


class Graph:
    """The vectors of one gallery, and how near they are. One call at a time: whoever shares it has a lock.

    A removed vector keeps its node, which is only marked dead: usearch would give the node to the next vector
    while its neighbours' links still lead there, and each round of deleting and adding 20 % would cost some
    percent of recall. So a graph with many dead nodes is to be built anew.
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
        """The vectors that can be found."""
        return self.nodes - len(self._dead)

    def __contains__(self, key: int) -> bool:
        return key not in self._dead and bool(self._index.contains(key))

    @property
    def nodes(self) -> int:
        """All of them, the dead ones included."""
        return len(self._index)

    @property
    def dead(self) -> Collection[int]:
        """Keys of dead nodes."""
        return self._dead

    def keys(self) -> set[int]:
        """The keys that can be found."""
        return {int(key) for key in np.asarray(self._index.keys)} - self._dead

    def add(self, keys: Sequence[int], vectors: Sequence[Vector]) -> None:
        """Add vectors, one after the other on this thread: adding from several has left nodes unreachable.

        A key that is there already gets its new vector.
        """
        known = [key for key in keys if self._index.contains(key)]
        if known:
            self._index.remove(np.array(known, dtype=np.uint64))
            self._dead.difference_update(known)
        self._index.add(np.array(keys, dtype=np.uint64), np.stack(vectors), threads=1)

    def remove(self, key: int) -> None:
        """Let a key be found no more. One that is not there is none's loss."""
        if self._index.contains(key):
            self._dead.add(key)

    def nearest(self, query: Vector, count: int, *, exact: bool) -> tuple[Keys, Scores]:
        """The keys nearest to `query`, best first, and their float16 cosines.

        `count` is of nodes, so fewer come back where some are dead. `exact` looks at every node.
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
        """Write the graph to a file, without the marks on dead nodes. OSError where that fails."""
        try:
            self._index.save(str(path))
        except RuntimeError as error:  # usearch's word for whatever the file system said
            raise OSError(f"the graph cannot be written: {error}") from error

    @classmethod
    def read(cls, path: Path, dimensions: int, dead: Collection[int]) -> Graph:
        """The graph in a file that `write` wrote, whole: usearch does not check that.

        ValueError where the file is no such graph.
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
    """The cosine of `query` with each of the unit `vectors` (N, D), float32 (N,).

    Not by BLAS, which would take several threads for it: the service already has one for each core.
    """
    products: Scores = np.einsum("ij,j->i", vectors, query)
    return np.clip(products, np.float32(-1), np.float32(1))
