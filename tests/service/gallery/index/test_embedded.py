"""The search of an embedded gallery: right at once, right while it builds, right after a restart."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import StorageUnavailable
from service.gallery.database import GalleryDatabase
from service.gallery.index import embedded
from service.gallery.index.embedded import EmbeddedSearch
from service.gallery.records import Change, Extent, NewImage, Quota
from service.gallery.store import GalleryStore
from service.gallery.vectors import GalleryVectors
from service.storage.database import open_database
from tests.service.gallery.index.sources import Rows, unit_vectors

DIMENSIONS = 32
LONG_S = 60.0

Open = Callable[..., EmbeddedSearch]


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def open_search(rows: Rows, tmp_path: Path) -> Iterator[Open]:
    """Opens a search over `rows`; all are closed at the end."""
    opened = []

    def open_search(source: object = rows, folder: Path | None = tmp_path, **options: int) -> EmbeddedSearch:
        search = EmbeddedSearch(source, DIMENSIONS, model="net", folder=folder, **options)  # type: ignore[arg-type]
        opened.append(search)
        return search

    yield open_search
    for search in opened:
        search.close()


def found(search: EmbeddedSearch, query: NDArray[np.float32], k: int = 10) -> list[int]:
    return [int(key) for key in search.search(query, k)[0]]


def recall(search: EmbeddedSearch, rows: Rows, queries: NDArray[np.float32]) -> float:
    shares = [len({*found(search, query)} & {*rows.exact(query, 10)}) / 10 for query in queries]
    return float(np.mean(shares))


def test_an_empty_gallery_has_no_nearest(open_search: Open) -> None:
    keys, scores = open_search().search(unit_vectors(1)[0], 10)
    assert keys.dtype == np.int64
    assert scores.dtype == np.float32
    assert len(keys) == len(scores) == 0


def test_small_gallery_is_searched_exactly(open_search: Open, rows: Rows) -> None:
    for vector in unit_vectors(300):
        rows.put(vector)
    search = open_search()
    assert search.wait_until_settled(LONG_S)
    assert search.status.mode == "exact"
    for query in unit_vectors(30, seed=1):
        keys, scores = search.search(query, 10)
        assert keys.tolist() == rows.exact(query, 10)
        assert scores == pytest.approx([rows.rows[int(key)] @ query for key in keys], abs=1e-6)


def test_order_by_float32_and_key(open_search: Open, rows: Rows) -> None:
    """All within what float16 can tell apart, some of them equal: only re-ranking puts them in order."""
    base, step = unit_vectors(2)
    for number in (5, 3, 8, 1, 3, 9, 0, 3, 7, 2):
        vector = base + step * np.float32(number * 2e-6)
        rows.put((vector / np.linalg.norm(vector)).astype(np.float32))
    for vector in unit_vectors(100, seed=2):
        rows.put(vector)
    search = open_search()
    assert search.wait_until_settled(LONG_S)
    keys, scores = search.search(base, 10)
    assert keys.tolist() == [key for _, key in sorted(zip(-scores, keys, strict=True))]
    assert {*keys.tolist()} == {*range(1, 11)}


def test_more_ties_than_candidates(open_search: Open, rows: Rows) -> None:
    """Four hundred are as near as float16 can tell: the best are found among them all the same."""
    base, step = unit_vectors(2)
    for number in range(400):
        vector = base + step * np.float32(number * 1e-6)
        rows.put((vector / np.linalg.norm(vector)).astype(np.float32))
    search = open_search()
    assert search.wait_until_settled(LONG_S)
    query = base + step
    query = (query / np.linalg.norm(query)).astype(np.float32)
    every = sorted((float(vector @ query) for vector in rows.rows.values()), reverse=True)
    assert every[0] - every[-1] < 1e-3
    assert search.search(query, 5)[1] == pytest.approx(every[:5], abs=3e-7)
    assert every[4] - every[20] > 3e-6


@pytest.mark.slow
def test_large_gallery_uses_the_graph(open_search: Open, rows: Rows) -> None:
    for vector in unit_vectors(2000):
        rows.put(vector)
    search = open_search(exact_up_to=100)
    assert search.wait_until_settled(LONG_S)
    assert search.status.mode == "hnsw"
    assert recall(search, rows, unit_vectors(50, seed=1)) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.002, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("exact_up_to", [0, 10_000])
def test_a_filter_still_gives_as_many(open_search: Open, rows: Rows, share: float, exact_up_to: int) -> None:
    for vector in unit_vectors(1500):
        rows.put(vector)
    search = open_search(exact_up_to=exact_up_to)
    assert search.wait_until_settled(LONG_S)
    kept = {int(key) for key in np.random.default_rng(0).permutation(1500)[: round(share * 1500)] + 1}
    passing = np.array(sorted(kept))
    shares = []
    for query in unit_vectors(20, seed=1):
        keys, _ = search.search(query, 10, lambda keys: np.isin(keys, passing))
        right = rows.exact(query, 10, kept)
        assert len(keys) == len(right)
        assert {*keys.tolist()} <= kept
        shares.append(len({*keys.tolist()} & {*right}) / len(right))
    assert np.mean(shares) >= 0.99


def test_filter_that_keeps_only_the_farthest(open_search: Open, rows: Rows) -> None:
    vectors = unit_vectors(2000)
    for vector in vectors:
        rows.put(vector)
    search = open_search(exact_up_to=0)
    assert search.wait_until_settled(LONG_S)
    query = unit_vectors(1, seed=1)[0]
    far = np.argsort(vectors @ query)[:50] + 1
    keys, _ = search.search(query, 10, lambda keys: np.isin(keys, far))
    assert keys.tolist() == rows.exact(query, 10, {*far.tolist()})


class HeldBack:
    """Rows whose changes the index's own thread does not get; searches read them all the same."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.go = threading.Event()
        self.vectors, self.extent = rows.vectors, rows.extent

    def changes_after(self, sequence: int, limit: int) -> object:
        if threading.current_thread().name == "gallery-index":
            self.go.wait(LONG_S)
        return self.rows.changes_after(sequence, limit)


@pytest.mark.slow
def test_exact_search_before_the_index(open_search: Open, rows: Rows) -> None:
    for vector in unit_vectors(1500):
        rows.put(vector)
    source = HeldBack(rows)
    search = open_search(source, exact_up_to=100)
    queries = unit_vectors(10, seed=1)
    assert search.status.mode == "streaming"
    assert search.status.indexed == 0
    assert recall(search, rows, queries) == 1
    keep = np.arange(1, 1501, 3)
    for query in queries:
        keys, _ = search.search(query, 10, lambda keys: np.isin(keys, keep))
        assert keys.tolist() == rows.exact(query, 10, {*keep.tolist()})
    assert rows.largest_read <= 512
    source.go.set()
    assert search.wait_until_settled(LONG_S)
    assert (search.status.mode, search.status.indexed) == ("hnsw", 1500)


def test_changes_are_visible_before_the_index_follows(open_search: Open, rows: Rows) -> None:
    vectors = unit_vectors(50)
    for vector in vectors[:40]:
        rows.put(vector)
    source = HeldBack(rows)
    source.go.set()
    search = open_search(source)
    assert search.wait_until_settled(LONG_S)
    source.go.clear()

    new = rows.put(vectors[45])
    search.notify()
    assert found(search, vectors[45], 1) == [new]
    rows.delete(7)
    search.notify()
    assert 7 not in found(search, vectors[6], 40)
    rows.delete(new)
    search.notify()
    assert found(search, vectors[45], 40) == rows.exact(vectors[45], 40)
    source.go.set()
    assert search.wait_until_settled(LONG_S)
    assert search.sequence == rows.sequence
    assert found(search, vectors[45], 40) == rows.exact(vectors[45], 40)


@pytest.mark.slow
def test_rebuild_after_many_deletions(open_search: Open, rows: Rows) -> None:
    vectors = unit_vectors(1500)
    for vector in vectors:
        rows.put(vector)
    search = open_search(exact_up_to=0)
    assert search.wait_until_settled(LONG_S)
    random = np.random.default_rng(0)
    most_dead = 0
    for _ in range(10):
        gone = random.choice([*rows.rows], 300, replace=False)
        again = [rows.rows[int(key)] for key in gone]
        for key in gone:
            rows.delete(int(key))
        for vector in again:
            rows.put(vector)
        search.notify()
        assert search.wait_until_settled(LONG_S)
        most_dead = max(most_dead, search.status.dead)
        assert search.status.indexed == len(rows.rows)
    assert most_dead <= 0.2 * 1900
    assert recall(search, rows, unit_vectors(50, seed=1)) >= 0.98


def test_saved_index_catches_up(
    open_search: Open, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit_vectors(1000)
    for vector in vectors[:900]:
        rows.put(vector)
    search = open_search(exact_up_to=0)
    assert search.wait_until_settled(LONG_S)
    rows.delete(17)
    search.notify()
    assert search.wait_until_settled(LONG_S)
    search.close()
    rows.delete(18)
    for vector in vectors[900:]:
        rows.put(vector)

    applied: list[Change] = []
    kept = embedded.apply
    monkeypatch.setattr(
        embedded, "apply", lambda graph, changes: (applied.extend(changes), kept(graph, changes))[1]
    )
    again = open_search(exact_up_to=0)
    assert again.wait_until_settled(LONG_S)
    assert len(applied) == 101
    assert again.status.indexed == 998
    assert recall(again, rows, unit_vectors(30, seed=1)) >= 0.99
    assert not {17, 18} & {*found(again, vectors[16], 998), *found(again, vectors[17], 998)}
    again.close()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".graph", ".json"]


def test_index_of_another_network(open_search: Open, rows: Rows, tmp_path: Path) -> None:
    for vector in unit_vectors(20):
        rows.put(vector)
    search = open_search()
    assert search.wait_until_settled(LONG_S)
    search.close()
    other = EmbeddedSearch(HeldBack(rows), DIMENSIONS, model="other", folder=tmp_path)  # type: ignore[arg-type]
    assert other.sequence == 0
    other._source.go.set()  # type: ignore[attr-defined]
    other.close()


def test_index_after_the_database_was_restored(open_search: Open) -> None:
    """The backup is of before some changes, so the index knows of more than the database does."""
    vectors = unit_vectors(60)
    now, backup = Rows(), Rows()
    for vector in vectors[:50]:
        now.put(vector)
        backup.put(vector)
    now.delete(3)
    now.put(vectors[55])
    search = open_search(now)
    assert search.wait_until_settled(LONG_S)
    search.close()
    source = HeldBack(backup)
    again = open_search(source)
    assert again.sequence == 52
    source.go.set()
    assert again.wait_until_settled(LONG_S)
    assert again.sequence == 50
    assert found(again, vectors[2], 50) == backup.exact(vectors[2], 50)


def test_incomplete_index_is_rebuilt(open_search: Open, rows: Rows) -> None:
    vectors = unit_vectors(30)
    for vector in vectors:
        rows.put(vector)
    search = open_search()
    assert search.wait_until_settled(LONG_S)
    search.close()
    rows.rows[1_000_000] = rows.rows.pop(5)  # as no store does it: the number of rows is the same
    del rows.rows[6]
    rows.sequence = 1_000_000
    again = open_search()
    assert again.wait_until_settled(LONG_S)
    assert again.status.indexed == len(rows.rows)
    assert found(again, vectors[4], 30) == rows.exact(vectors[4], 30)


def test_it_goes_on_when_the_store_is_back(
    open_search: Open, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "RETRY_S", 0.01)
    vectors = unit_vectors(20)
    for vector in vectors[:10]:
        rows.put(vector)
    rows.away = True
    search = open_search()
    with pytest.raises(StorageUnavailable):
        search.search(vectors[0], 5)
    rows.away = False
    assert search.wait_until_settled(LONG_S)
    assert found(search, vectors[0], 5) == rows.exact(vectors[0], 5)


def test_unwritable_index_folder(open_search: Open, rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    vectors = unit_vectors(20)
    for vector in vectors:
        rows.put(vector)
    search = open_search(folder=tmp_path / "file")
    assert search.wait_until_settled(LONG_S)
    assert found(search, vectors[0], 5) == rows.exact(vectors[0], 5)
    search.close()


def test_concurrent_searches_and_changes(open_search: Open, rows: Rows) -> None:
    vectors = unit_vectors(400)
    for vector in vectors[:200]:
        rows.put(vector)
    search = open_search(exact_up_to=50)
    ended = threading.Event()
    wrong: list[object] = []

    def ask(number: int) -> None:
        while not ended.is_set():
            try:
                if found(search, vectors[number], 1) != [number + 1]:
                    wrong.append(number)
            except Exception as error:  # whatever it is, it is what the test is after
                wrong.append(error)

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for asker in askers:
        asker.start()
    for vector in vectors[200:]:
        rows.rows = {**rows.rows, rows.sequence + 1: vector}  # at once, as a transaction does it
        rows.sequence += 1
        search.notify()
    assert search.wait_until_settled(LONG_S)
    ended.set()
    for asker in askers:
        asker.join()
    assert wrong == []
    assert search.status.indexed == 400


@pytest.mark.parametrize("query", [np.ones(DIMENSIONS), np.ones(DIMENSIONS - 1, np.float32)])
def test_query_of_another_shape_or_dtype(open_search: Open, query: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match=r"float32 \(32,\) is needed"):
        open_search().search(query, 1)


class OfOneNetwork:
    """The vectors of one network in the real store."""

    def __init__(self, vectors: GalleryVectors, embedder: str) -> None:
        self._vectors, self._embedder = vectors, embedder

    def changes_after(self, sequence: int, limit: int) -> list[Change]:
        return self._vectors.changes_after(self._embedder, sequence, limit)

    def vectors(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return self._vectors.vectors(self._embedder, keys)

    def extent(self) -> Extent:
        return self._vectors.extent(self._embedder)


def test_over_the_real_store(open_search: Open, tmp_path: Path) -> None:
    engine = open_database(None, tmp_path)
    database = GalleryDatabase(engine)
    store = GalleryStore(database, Quota(images=100, bytes=10**6))
    source = OfOneNetwork(GalleryVectors(database), "net@0")
    search = open_search(source, folder=tmp_path / "index")
    vectors = unit_vectors(12)
    assert found(search, vectors[0]) == []
    keys = {}
    for number, vector in enumerate(vectors):
        content = bytes([number])
        keys[number] = store.put(
            f"id-{number}",
            NewImage(content, hashlib.sha256(content).hexdigest(), "png", 1, 1, 0, b"", {"net@0": vector}),
            {},
        ).image.key
        search.notify()
        assert found(search, vector, 1) == [keys[number]]
    assert store.delete("id-3")
    search.notify()
    assert keys[3] not in found(search, vectors[3], 12)
    assert search.wait_until_settled(LONG_S)
    assert search.status.indexed == 11
    assert keys[3] not in found(search, vectors[3], 12)
    search.close()
    again = open_search(source, folder=tmp_path / "index")
    assert again.sequence == search.sequence
    assert len(found(again, vectors[3], 12)) == 11
    again.close()
    engine.dispose()
