"""Vectors for benchmarks of the search: a gallery, queries, and the true nearest neighbours of the queries.

Gallery and queries are embeddings of garments (Fashion-MNIST) and of crops of photographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmarks.retrieval.corpus import Crops, FashionMnist
from benchmarks.retrieval.embeddings import Embedder, embeddings
from models.zoo.files import NETWORKS

MODEL = "efficientnet-lite0-int8"
DIMENSIONS = 1280
CROPS_PER_PHOTOGRAPH = 840
QUERIES = 500
"""Number of queries of each kind, garments and crops. The queries are not in the gallery."""
GALLERY = (69_500, 30_500)
"""Numbers of garments and of crops in a gallery of 100 000. Smaller galleries have the same shares."""
K = 10
TOLERANCE = 1e-6
"""A cosine that differs from the K-th best one by less than this counts as equal to it, because float32 sums
depend on their order."""


@dataclass(frozen=True)
class Workload:
    """Vectors to search: `gallery`, float32 (N, D), and `queries`, float32 (Q, D)."""

    gallery: NDArray[np.float32]
    queries: NDArray[np.float32]

    @cached_property
    def cosines(self) -> NDArray[np.float32]:
        """Cosine of each query with each vector of the gallery, float32 (Q, N)."""
        return self.queries @ self.gallery.T

    def kth_cosine(self, matching: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Return, for each query, the K-th best cosine, float32 (Q,).

        Only rows for which the filter `matching`, (N,), is true count.
        """
        cosines = self.cosines if matching is None else self.cosines[:, matching]
        return np.partition(cosines, -K, axis=1)[:, -K]

    def recall(
        self, results: list[NDArray[np.int64]], matching: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Return recall at K of each query, (Q,). `results`: at most K rows of the gallery per query.

        A row counts as correct if it matches the filter `matching`, (N,), and is at least as near as the K-th
        nearest row.
        """
        threshold = self.kth_cosine(matching) - TOLERANCE
        hits = [
            sum(
                1
                for row in {int(row) for row in rows[:K]}
                if self.cosines[query, row] >= threshold[query] and (matching is None or matching[row])
            )
            for query, rows in enumerate(results)
        ]
        return np.array(hits) / K


def embed(seconds: float = float("inf")) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the embeddings of all garments and of all crops. Embeddings that are not cached are computed."""
    embedder = Embedder(NETWORKS / MODEL)
    garments = embeddings(embedder, "fashion-mnist", FashionMnist(), seconds)
    crops = embeddings(embedder, f"crops-{CROPS_PER_PHOTOGRAPH}", Crops(CROPS_PER_PHOTOGRAPH), seconds)
    return garments, crops


def workload(count: int) -> Workload:
    """Return a shuffled gallery of `count` vectors, and queries that alternate between garments and crops."""
    kinds = embed()
    gallery, queries = [], []
    for number, (vectors, share) in enumerate(zip(kinds, GALLERY, strict=True)):
        order = np.random.default_rng(number).permutation(len(vectors))
        queries.append(vectors[np.sort(order[:QUERIES])])
        chosen = order[QUERIES : QUERIES + round(count * share / sum(GALLERY))]
        gallery.append(vectors[np.sort(chosen)])
    vectors_of_both = np.concatenate(gallery)
    order = np.random.default_rng(9).permutation(len(vectors_of_both))
    return Workload(vectors_of_both[order], np.stack(queries, axis=1).reshape(-1, vectors_of_both.shape[1]))
