"""Measure one search method in this process: `python -m benchmarks.retrieval.worker METHOD COUNT FOLDER`.

Prints the figures of the method as JSON. FOLDER has the database and the index file of the service; all
methods of the service share it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.retrieval.rivals import RIVALS
from benchmarks.retrieval.timing import own_memory, timed_searches
from benchmarks.retrieval.vector_store import EMBEDDER, VectorStore
from benchmarks.retrieval.vectors import DIMENSIONS, K, Workload, workload
from service.gallery.index.embedded import EmbeddedSearch

SHARES = (0.01, 0.1, 0.5)
CHURN_ROUNDS = 10
CHURN_SHARE = 0.2
SETTLE_TIMEOUT_S = 1_000.0
EVERY = {"qdrant local": 5}
"""For slow methods, the number n by which queries are thinned out: only every n-th query is run.

With 100 000 vectors, one query takes 0.2 s.
"""
WHILE_BUILDING = 20
"""Number of queries that are answered from the database while the index is built."""

Figures = dict[str, Any]


def rival(way: str, count: int) -> Figures:
    """Build an index with another library and search it."""
    data = workload(count)
    before, started, started_cpu = own_memory(), time.perf_counter(), time.process_time()
    search = RIVALS[way](data.gallery)
    build_s, build_cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
    memory = own_memory() - before
    subset = Workload(data.gallery, data.queries[:: EVERY.get(way, 1)])
    results, figures = timed_searches(search, subset.queries)
    return {
        "recall": float(subset.recall(results).mean()),
        "build_s": build_s,
        "build_cpu_s": build_cpu_s,
        "bytes_per_vector": memory / count,
        **figures,
    }


def exact(count: int, folder: Path) -> Figures:
    """Build the index from the database and search it exhaustively."""
    data, store = workload(count), filled(count, folder)
    figures, search = built(count, folder, store, exact_up_to=count)
    figures |= searches(search, data)
    search.close()
    return figures


def build(count: int, folder: Path) -> Figures:
    """Build the graph from the database and save it."""
    figures, search = built(count, folder, filled(count, folder), exact_up_to=0)
    started = time.perf_counter()
    search.close()
    return {**figures, "save_s": time.perf_counter() - started}


def hnsw(count: int, folder: Path) -> Figures:
    """Load the file that `build` saved, measure the time up to the first answer, then search by the graph."""
    data, store = workload(count), filled(count, folder)
    before, started = own_memory(), time.perf_counter()
    search = opened(store, folder, 0)
    if search.sequence != count:
        raise SystemExit(f"{folder}: no index of {count} vectors; measure build first")
    search.search(data.queries[0], K)
    first_s = time.perf_counter() - started
    settled(search)
    figures = {"first_answer_s": first_s, "bytes_per_vector": (own_memory() - before) / count}
    figures |= searches(search, data)
    search.close()
    return figures


def built(count: int, folder: Path, store: VectorStore, exact_up_to: int) -> tuple[Figures, EmbeddedSearch]:
    """Build the index. Return the time and memory that this took, and the object that searches the index."""
    shutil.rmtree(folder / "index", ignore_errors=True)
    before, started, started_cpu = own_memory(), time.perf_counter(), time.process_time()
    search = opened(store, folder, exact_up_to)
    settled(search)
    seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    memory = (own_memory() - before) / count
    return {"build_s": seconds, "build_cpu_s": cpu, "bytes_per_vector": memory}, search


def searches(search: EmbeddedSearch, data: Workload) -> Figures:
    """Measure recall and latency, without and with filters."""
    results, times = timed_searches(lambda query: search.search(query, K)[0] - 1, data.queries)
    recall = float(data.recall(results).mean())
    return {"mode": search.status.mode, "recall": recall, **times, "filters": filters(search, data)}


def unindexed(count: int, folder: Path) -> Figures:
    """Start without an index file, and measure the first searches.

    These searches read the database, because the index is still being built.
    """
    data, store = workload(count), filled(count, folder)
    shutil.rmtree(folder / "index", ignore_errors=True)
    before = own_memory()
    started = time.perf_counter()
    search = opened(store, folder, 0)
    results: list[NDArray[np.int64]] = []
    seconds = []
    for query in data.queries[:WHILE_BUILDING]:
        results.append(search.search(query, K)[0] - 1)
        seconds.append(time.perf_counter() - started)
    status = search.status
    recall = Workload(data.gallery, data.queries[:WHILE_BUILDING]).recall(results)
    figures = {
        "mode": status.mode,
        "indexed_by_then": status.indexed,
        "recall": float(recall.mean()),
        "first_answer_s": seconds[0],
        "slowest_s": float(np.diff([0.0, *seconds]).max()),
        "bytes_of_memory": own_memory() - before,
    }
    search.close()
    return figures


def churned(count: int, folder: Path) -> Figures:
    """Measure recall in a new database after each of ten rounds of changes.

    A round deletes a fifth of the vectors and adds them again.
    """
    data = workload(count)
    shutil.rmtree(folder, ignore_errors=True)
    store = filled(count, folder)
    search = opened(store, folder, 0)
    settled(search)
    rows = np.arange(count)
    keys = rows + 1  # current key of each row of the gallery
    random = np.random.default_rng(0)
    recalls, dead, seconds = [], [], []
    for _ in range(CHURN_ROUNDS):
        churned_rows = random.choice(count, round(CHURN_SHARE * count), replace=False)
        started = time.perf_counter()
        store.delete(keys[churned_rows])
        keys[churned_rows] = store.put(data.gallery[churned_rows])
        search.notify()
        settled(search)
        seconds.append(time.perf_counter() - started)
        row_of = dict(zip(keys.tolist(), rows.tolist(), strict=True))
        results = [
            np.array([row_of[int(key)] for key in search.search(query, K)[0]]) for query in data.queries
        ]
        recalls.append(float(data.recall(results).mean()))
        dead.append(search.status.dead)
    search.close()
    return {"mode": search.status.mode, "recalls": recalls, "dead": dead, "seconds": seconds}


def filters(search: EmbeddedSearch, data: Workload) -> list[Figures]:
    """Measure searches with filters that match a random share of the gallery."""
    figures = []
    for share in SHARES:
        matching = np.random.default_rng(int(1000 * share)).random(len(data.gallery)) < share
        results, times = timed_searches(
            lambda query, matching=matching: search.search(query, K, lambda keys: matching[keys - 1])[0] - 1,
            data.queries[::5],
        )
        subset = Workload(data.gallery, data.queries[::5])
        figures.append(
            {
                "share": share,
                "kept": int(matching.sum()),
                "fewest": min(len(rows) for rows in results),
                "recall": float(subset.recall(results, matching).mean()),
                **times,
            }
        )
    return figures


def filled(count: int, folder: Path) -> VectorStore:
    """Return the store with the vectors of `workload(count)`; the key of a row is its number plus one."""
    store = VectorStore(folder)
    if store.sequence == 0:
        store.put(workload(count).gallery)
    if store.sequence != count:
        raise SystemExit(f"{folder}: {store.sequence} changes (allowed: {count}); remove it")
    return store


def opened(store: VectorStore, folder: Path, exact_up_to: int) -> EmbeddedSearch:
    """Open the service's search over the store in `folder`."""
    return EmbeddedSearch(store, DIMENSIONS, model=EMBEDDER, folder=folder / "index", exact_up_to=exact_up_to)


def settled(search: EmbeddedSearch) -> None:
    """Wait until the index is complete."""
    if not search.wait_until_settled(SETTLE_TIMEOUT_S):
        raise SystemExit(f"index: not complete after {SETTLE_TIMEOUT_S:.0f} s")


WAYS: dict[str, Callable[[int, Path], Figures]] = {
    "exact": exact,
    "build": build,
    "hnsw": hnsw,
    "no index": unindexed,
    "churn": churned,
    **{name: lambda count, _, name=name: rival(name, count) for name in RIVALS},  # type: ignore[misc]
}


def main() -> None:
    """Measure one method."""
    way, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    print(json.dumps(WAYS[way](count, folder)))


if __name__ == "__main__":
    main()
