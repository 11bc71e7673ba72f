"""One way to search, measured in a process of its own: `python -m benchmarks.retrieval.worker`.

Prints its figures as JSON. FOLDER keeps our database and index file between the ways of ours.
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

from benchmarks.retrieval.kept import EMBEDDER, Kept
from benchmarks.retrieval.rivals import RIVALS
from benchmarks.retrieval.timing import own_memory, timed_searches
from benchmarks.retrieval.vectors import DIMENSIONS, K, Searched, searched
from service.gallery.index.embedded import EmbeddedSearch

SHARES = (0.01, 0.1, 0.5)
CHURN_ROUNDS = 10
CHURN_SHARE = 0.2
A_LONG_TIME_S = 1_000.0
EVERY = {"qdrant local": 5}
"""Slow ways, and that they are asked only every so-manyth query: at 100 000 vectors one takes 0.2 s."""
WHILE_BUILDING = 20
"""Queries that are answered from the database while there is no index yet."""

Figures = dict[str, Any]


def rival(way: str, count: int) -> Figures:
    """Build and search with another library."""
    data = searched(count)
    before, begun, begun_cpu = own_memory(), time.perf_counter(), time.process_time()
    search = RIVALS[way](data.gallery)
    built, cpu, used = time.perf_counter() - begun, time.process_time() - begun_cpu, own_memory() - before
    asked = Searched(data.gallery, data.queries[:: EVERY.get(way, 1)])
    found, figures = timed_searches(search, asked.queries)
    return {
        "recall": float(asked.recall(found).mean()),
        "build_s": built,
        "build_cpu_s": cpu,
        "bytes_per_vector": used / count,
        **figures,
    }


def exact(count: int, folder: Path) -> Figures:
    """Build from the database; search by comparing all."""
    data, kept = searched(count), filled(count, folder)
    figures, search = built(count, folder, kept, exact_up_to=count)
    figures |= searches(search, data)
    search.close()
    return figures


def build(count: int, folder: Path) -> Figures:
    """Build the graph from the database, and leave its file."""
    figures, search = built(count, folder, filled(count, folder), exact_up_to=0)
    begun = time.perf_counter()
    search.close()
    return {**figures, "save_s": time.perf_counter() - begun}


def hnsw(count: int, folder: Path) -> Figures:
    """Start from the file that `build` left, until the first answer; then search by the graph."""
    data, kept = searched(count), filled(count, folder)
    before, begun = own_memory(), time.perf_counter()
    search = opened(kept, folder, 0)
    if search.sequence != count:
        raise SystemExit(f"{folder} has no index of {count}: measure build first")
    search.search(data.queries[0], K)
    first_s = time.perf_counter() - begun
    settled(search)
    figures = {"first_answer_s": first_s, "bytes_per_vector": (own_memory() - before) / count}
    figures |= searches(search, data)
    search.close()
    return figures


def built(count: int, folder: Path, kept: Kept, exact_up_to: int) -> tuple[Figures, EmbeddedSearch]:
    """What building takes, and the search that was built."""
    shutil.rmtree(folder / "index", ignore_errors=True)
    before, begun, begun_cpu = own_memory(), time.perf_counter(), time.process_time()
    search = opened(kept, folder, exact_up_to)
    settled(search)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    memory = (own_memory() - before) / count
    return {"build_s": seconds, "build_cpu_s": cpu, "bytes_per_vector": memory}, search


def searches(search: EmbeddedSearch, data: Searched) -> Figures:
    """Recall and times, without a filter and with some."""
    found, times = timed_searches(lambda query: search.search(query, K)[0] - 1, data.queries)
    recall = float(data.recall(found).mean())
    return {"mode": search.status.mode, "recall": recall, **times, "filters": filters(search, data)}


def unindexed(count: int, folder: Path) -> Figures:
    """Start without an index file: the first answers, streamed from the database while the index is built."""
    data, kept = searched(count), filled(count, folder)
    shutil.rmtree(folder / "index", ignore_errors=True)
    before = own_memory()
    begun = time.perf_counter()
    search = opened(kept, folder, 0)
    found: list[NDArray[np.int64]] = []
    seconds = []
    for query in data.queries[:WHILE_BUILDING]:
        found.append(search.search(query, K)[0] - 1)
        seconds.append(time.perf_counter() - begun)
    status = search.status
    recall = Searched(data.gallery, data.queries[:WHILE_BUILDING]).recall(found)
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
    """Recall after each of ten rounds of deleting a fifth and adding it again, in a database of its own."""
    data = searched(count)
    shutil.rmtree(folder, ignore_errors=True)
    kept = filled(count, folder)
    search = opened(kept, folder, 0)
    settled(search)
    rows = np.arange(count)
    keys = rows + 1  # of each row of the gallery, at present
    random = np.random.default_rng(0)
    recalls, dead, seconds = [], [], []
    for _ in range(CHURN_ROUNDS):
        some = random.choice(count, round(CHURN_SHARE * count), replace=False)
        begun = time.perf_counter()
        kept.delete(keys[some])
        keys[some] = kept.put(data.gallery[some])
        search.notify()
        settled(search)
        seconds.append(time.perf_counter() - begun)
        row_of = dict(zip(keys.tolist(), rows.tolist(), strict=True))
        found = [np.array([row_of[int(key)] for key in search.search(query, K)[0]]) for query in data.queries]
        recalls.append(float(data.recall(found).mean()))
        dead.append(search.status.dead)
    search.close()
    return {"mode": search.status.mode, "recalls": recalls, "dead": dead, "seconds": seconds}


def filters(search: EmbeddedSearch, data: Searched) -> list[Figures]:
    """Searches that only a random share of the gallery may be found by."""
    results = []
    for share in SHARES:
        kept = np.random.default_rng(int(1000 * share)).random(len(data.gallery)) < share
        found, times = timed_searches(
            lambda query, kept=kept: search.search(query, K, lambda keys: kept[keys - 1])[0] - 1,
            data.queries[::5],
        )
        narrowed = Searched(data.gallery, data.queries[::5])
        results.append(
            {
                "share": share,
                "kept": int(kept.sum()),
                "fewest": min(len(rows) for rows in found),
                "recall": float(narrowed.recall(found, kept).mean()),
                **times,
            }
        )
    return results


def filled(count: int, folder: Path) -> Kept:
    """The database with the vectors of `searched(count)`: the key of a row is its number plus one."""
    kept = Kept(folder)
    if kept.sequence == 0:
        kept.put(searched(count).gallery)
    if kept.sequence != count:
        raise SystemExit(f"{folder} holds {kept.sequence} changes, not {count}: remove it")
    return kept


def opened(kept: Kept, folder: Path, exact_up_to: int) -> EmbeddedSearch:
    """Our search over the database in `folder`."""
    return EmbeddedSearch(kept, DIMENSIONS, model=EMBEDDER, folder=folder / "index", exact_up_to=exact_up_to)


def settled(search: EmbeddedSearch) -> None:
    """Wait until the index has everything."""
    if not search.wait_until_settled(A_LONG_TIME_S):
        raise SystemExit("the index does not get ready")


WAYS: dict[str, Callable[[int, Path], Figures]] = {
    "exact": exact,
    "build": build,
    "hnsw": hnsw,
    "no index": unindexed,
    "churn": churned,
    **{name: lambda count, _, name=name: rival(name, count) for name in RIVALS},  # type: ignore[misc]
}


def main() -> None:
    """Measure one way."""
    way, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    print(json.dumps(WAYS[way](count, folder)))


if __name__ == "__main__":
    main()
