"""The vectors that searches are measured on: a gallery and queries of both kinds, and who is nearest."""

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
"""Of each kind; none of them is in the gallery."""
GALLERY = (69_500, 30_500)
"""Garments and crops among 100 000; fewer have the same shares."""
K = 10
SAME = 1e-6
"""Cosines as near as this to the tenth nearest one's are as good: float32 sums them differently by order."""


@dataclass(frozen=True)
class Searched:
    """`gallery` and `queries`, float32 (N, D); which of the gallery each is: crops are True."""

    gallery: NDArray[np.float32]
    queries: NDArray[np.float32]

    @cached_property
    def cosines(self) -> NDArray[np.float32]:
        """Of each query with all of the gallery, float32 (Q, N)."""
        return self.queries @ self.gallery.T

    def tenth(self, kept: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """The K-th best cosine of each query among those that are `kept`, float32 (Q,)."""
        among = self.cosines if kept is None else self.cosines[:, kept]
        return np.partition(among, -K, axis=1)[:, -K]

    def recall(
        self, found: list[NDArray[np.int64]], kept: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Of each query, the share of the K nearest that was found: rows of the gallery, at most K each.

        What is found counts if it is kept and as near as the K-th nearest.
        """
        least = self.tenth(kept) - SAME
        right = [
            sum(
                1
                for row in {int(row) for row in rows[:K]}
                if self.cosines[query, row] >= least[query] and (kept is None or kept[row])
            )
            for query, rows in enumerate(found)
        ]
        return np.array(right) / K


def embed(seconds: float = float("inf")) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The embeddings of all garments and of all crops, made where they are not kept yet."""
    embedder = Embedder(NETWORKS / MODEL)
    garments = embeddings(embedder, "fashion-mnist", FashionMnist(), seconds)
    crops = embeddings(embedder, f"crops-{CROPS_PER_PHOTOGRAPH}", Crops(CROPS_PER_PHOTOGRAPH), seconds)
    return garments, crops


def searched(count: int) -> Searched:
    """A gallery of `count`, in an order of its own, and the queries, by turns of both kinds."""
    kinds = embed()
    gallery, queries = [], []
    for number, (vectors, share) in enumerate(zip(kinds, GALLERY, strict=True)):
        order = np.random.default_rng(number).permutation(len(vectors))
        queries.append(vectors[np.sort(order[:QUERIES])])
        chosen = order[QUERIES : QUERIES + round(count * share / sum(GALLERY))]
        gallery.append(vectors[np.sort(chosen)])
    together = np.concatenate(gallery)
    mixed = np.random.default_rng(9).permutation(len(together))
    return Searched(together[mixed], np.stack(queries, axis=1).reshape(-1, together.shape[1]))
