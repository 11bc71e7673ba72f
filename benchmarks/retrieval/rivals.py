"""Other libraries behind one interface: build an index of vectors (N, D), search it on one thread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.retrieval.timing import Search
from benchmarks.retrieval.vectors import K
from service.gallery.index.graph import CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH

BLOCK = 1_000


def faiss_flat(vectors: NDArray[np.float32]) -> Search:
    """Build faiss-cpu's exhaustive search over float32."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda query: index.search(query[None], K)[1][0]


def faiss_hnsw(vectors: NDArray[np.float32]) -> Search:
    """Build faiss-cpu's HNSW over float32, with the parameters of the service's graph."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(vectors.shape[1], CONNECTIVITY, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EXPANSION_ADD
    index.hnsw.efSearch = EXPANSION_SEARCH
    index.add(vectors)
    return lambda query: index.search(query[None], K)[1][0]


def hnswlib(vectors: NDArray[np.float32]) -> Search:
    """Build hnswlib over float32, with the parameters of the service's graph."""
    import hnswlib as library

    index = library.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), M=CONNECTIVITY, ef_construction=EXPANSION_ADD, random_seed=0)
    index.set_num_threads(1)
    index.set_ef(EXPANSION_SEARCH)
    index.add_items(vectors, np.arange(len(vectors)), num_threads=1)
    return lambda query: index.knn_query(query, K, num_threads=1)[0][0].astype(np.int64)


def qdrant_local(vectors: NDArray[np.float32]) -> Search:
    """Build qdrant-client's local mode in memory. It searches exhaustively.

    According to its documentation, it is for prototypes.
    """
    import warnings

    from qdrant_client import QdrantClient, models

    warnings.filterwarnings("ignore", message="Local mode is not recommended")
    client = QdrantClient(":memory:")
    parameters = models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT)
    client.create_collection("gallery", vectors_config=parameters)
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        ids = list(range(start, start + len(block)))
        client.upsert("gallery", models.Batch(ids=ids, vectors=block.tolist()))

    def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
        points = client.query_points("gallery", query=query, limit=K).points
        return np.array([point.id for point in points], np.int64)

    return search


RIVALS = {
    "faiss flat": faiss_flat,
    "faiss HNSW": faiss_hnsw,
    "hnswlib": hnswlib,
    "qdrant local": qdrant_local,
}
