"""The gallery's store on real databases: what is put is there, once, and numbers are never given twice."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, text

from service.errors import GalleryFull, StorageUnavailable
from service.gallery.database import GalleryDatabase
from service.gallery.records import Condition, EmbeddersChanged, Metadata, NewImage, Quota
from service.gallery.store import GalleryStore
from service.gallery.vectors import GalleryVectors
from service.storage.database import open_database

NET = "net@0123456789ab"
OTHER = "other@ba9876543210"

pytestmark = pytest.mark.databases("sqlite", "postgresql")

QUOTA = Quota(images=100, bytes=1_000_000)


def image(seed: int, *embedders: str, size: int = 100) -> NewImage:
    """An image of random bytes, with an embedding of each embedder."""
    random = np.random.default_rng(seed)
    content = random.bytes(size)
    vectors = {each: random.normal(size=8).astype(np.float32) for each in embedders or (NET,)}
    return NewImage(
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        format="png",
        width=20 + seed,
        height=10,
        perceptual_hash=(1 << 63) + seed,
        thumbnail=b"thumbnail",
        embeddings={each: vector / np.linalg.norm(vector) for each, vector in vectors.items()},
    )


@pytest.fixture
def database(engine: Engine) -> GalleryDatabase:
    return GalleryDatabase(engine)


@pytest.fixture
def engine(tmp_path: Path, migrated_url: str | None) -> Iterator[Engine]:
    engine = open_database(migrated_url, tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def unprepared(tmp_path: Path, database_url: str | None) -> Iterator[Engine]:
    """An engine whose database has no tables; an SQLite file is not there either."""
    engine = open_database(database_url, tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def store(database: GalleryDatabase) -> GalleryStore:
    return GalleryStore(database, QUOTA, clock=lambda: 1234.5)


@pytest.fixture
def vectors(database: GalleryDatabase) -> GalleryVectors:
    return GalleryVectors(database)


def history(vectors: GalleryVectors, embedder: str = NET, after: int = 0) -> list[tuple[int, int, bool]]:
    """Number, key, and whether it is there, of each change, read two at a time."""
    changes = []
    while some := vectors.changes_after(embedder, after, 2):
        changes += [(each.sequence, each.key, each.vector is not None) for each in some]
        after = some[-1].sequence
    return changes


def test_nothing_is_made_by_reading(unprepared: Engine, tmp_path: Path) -> None:
    database = GalleryDatabase(unprepared)
    store, vectors = GalleryStore(database, QUOTA), GalleryVectors(database)
    assert store.get("a") is None
    assert store.page(None, 10) == ([], 0)
    assert store.find_by_sha256("0" * 64) is None
    assert store.by_key([1]) == ({}, store.database.state())
    assert vectors.changes_after(NET, 0, 10) == []
    assert store.database.state().images == 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_put_is_read_back(unprepared: Engine) -> None:
    database = GalleryDatabase(unprepared)
    store, vectors = GalleryStore(database, QUOTA, clock=lambda: 1234.5), GalleryVectors(database)
    put = store.put("a.png", image(1), {"label": "cat", "size": 2.5, "seen": True, "by": None})
    assert put.status == "added"
    found = store.get("a.png")
    assert found == put.image
    assert found is not None
    assert (found.width, found.height, found.bytes, found.created_at) == (21, 10, 100, 1234.5)
    assert found.metadata == {"label": "cat", "size": 2.5, "seen": True, "by": None}
    assert found.perceptual_hash == (1 << 63) + 1
    assert store.original(found.key) == image(1).content
    assert store.thumbnail(found.key) == b"thumbnail"
    keys, rows = vectors.vectors(NET, [found.key, 77])
    assert keys.tolist() == [found.key]
    np.testing.assert_array_equal(rows[0], image(1).embeddings[NET])
    assert store.database.state().embedder == NET


def test_the_same_again_changes_nothing(store: GalleryStore, vectors: GalleryVectors) -> None:
    first = store.put("a", image(1), {"n": 1})
    before = store.database.state()
    again = store.put("a", image(1), {"n": 1})
    assert (again.status, again.image) == ("unchanged", first.image)
    assert store.database.state() == before
    assert history(vectors) == [(1, 1, True)]


def test_metadata_equality_by_type(store: GalleryStore) -> None:
    store.put("a", image(1), {"n": 1})
    assert store.put("a", image(1), {"n": True}).status == "replaced"
    assert store.put("a", image(1), {"n": 1}).status == "replaced"


def test_other_metadata_keep_the_image_and_its_key(store: GalleryStore, vectors: GalleryVectors) -> None:
    first = store.put("a", image(1), {"n": 1})
    put = store.put("a", image(1), {"n": 2})
    assert (put.status, put.image) == ("replaced", replace(first.image, metadata={"n": 2}))
    assert store.get("a") == put.image
    assert history(vectors) == [(1, 1, True)]
    assert store.database.state().revision == 2
    described = store.describe("a", image(1).sha256, {"n": 3})
    assert described is not None
    assert described.status == "replaced"
    assert store.describe("a", image(2).sha256, {}) is None
    assert store.describe("b", image(1).sha256, {}) is None


def test_replaced_image_gets_a_new_key(
    store: GalleryStore, vectors: GalleryVectors, database: GalleryDatabase
) -> None:
    store.put("a", image(1), {})
    later = GalleryStore(database, QUOTA, clock=lambda: 9999.0)
    put = later.put("a", image(2, size=300), {})
    assert (put.status, put.image.key, put.image.created_at) == ("replaced", 3, 1234.5)
    assert history(vectors) == [(2, 1, False), (3, 3, True)]
    assert vectors.changes_after(NET, 2, 10)[0].key == 3
    state = database.state()
    assert (state.images, state.bytes, state.sequence) == (1, 300, 3)
    assert store.original(1) is None


def test_numbers_are_not_given_twice(store: GalleryStore, vectors: GalleryVectors) -> None:
    """Not even those of the last image, which the next one would take over where rowids are counted."""
    store.put("a", image(1), {})
    assert store.delete("a")
    assert not store.delete("a")
    assert store.get("a") is None
    assert store.put("a", image(1), {}).image.key == 3
    assert history(vectors) == [(2, 1, False), (3, 3, True)]
    extent = vectors.extent(NET)
    assert (extent.sequence, extent.count) == (3, 1)


def test_delete_leaves_only_a_tombstone(store: GalleryStore, engine: Engine) -> None:
    store.put("a", image(1), {"label": "cat"})
    store.delete("a")
    with engine.connect() as connection:
        left = {
            table: connection.execute(text(f"SELECT count(*) FROM gallery_{table}")).scalar()
            for table in ("images", "contents", "embeddings", "fields", "tombstones")
        }
    assert left == {"images": 0, "contents": 0, "embeddings": 0, "fields": 0, "tombstones": 1}


def test_add_existing_bytes(store: GalleryStore) -> None:
    store.put("mine", image(1), {"n": 1})
    put = store.add(image(1), {"n": 2}, ["other"])
    assert (put.status, put.image.id, put.image.metadata) == ("exists", "mine", {"n": 1})
    assert store.add(image(2), {}, ["mine", "spare"]).image.id == "spare"
    with pytest.raises(ValueError, match="free"):
        store.add(image(3), {}, ["mine", "spare"])
    assert store.find_by_sha256(image(2).sha256) == store.get("spare")


def test_quota(database: GalleryDatabase) -> None:
    store = GalleryStore(database, Quota(images=2, bytes=350))
    store.put("a", image(1), {})
    store.put("b", image(2), {})
    with pytest.raises(GalleryFull, match=r"2 images \(limit: 2\)"):
        store.put("c", image(3), {})
    with pytest.raises(GalleryFull, match=r"400 bytes .*limit: 350"):
        store.put("a", image(4, size=300), {})
    assert store.get("a") is not None
    store.put("a", image(4, size=250), {})
    store.delete("b")
    assert store.put("c", image(3), {}).status == "added"
    assert database.state().bytes == 350


def test_pages_in_the_order_of_ids(store: GalleryStore) -> None:
    ids = ["B", "a", "b", "a-1", "10", "9", "Z_"]
    for number, id in enumerate(ids):
        store.put(id, image(number), {})
    seen: list[str] = []
    after = None
    while True:
        images, count = store.page(after, 3)
        assert count == len(ids)
        if not images:
            break
        seen += [each.id for each in images]
        after = seen[-1]
    assert seen == sorted(ids)


CARDS: dict[str, Metadata] = {
    "a": {"label": "cat", "year": 2019, "score": 0.5, "kept": True},
    "b": {"label": "cat", "year": 2021, "score": 2, "kept": False},
    "c": {"label": "dog", "year": "2021", "kept": None},
    "d": {"label": "Cat", "year": 2024.5},
    "e": {},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ([("label", "eq", "cat")], "ab"),
        ([("year", "eq", 2021)], "b"),
        ([("year", "eq", "2021")], "c"),
        ([("year", "gte", 2019), ("year", "lt", 2024.5)], "ab"),
        ([("year", "gt", 2019)], "bd"),
        ([("year", "lte", 2019.0)], "a"),
        ([("label", "gte", "cat"), ("label", "lt", "d")], "ab"),
        ([("label", "eq", "cat"), ("kept", "eq", True)], "a"),
        ([("kept", "eq", None)], "c"),
        ([("kept", "eq", 1)], ""),
        ([("score", "eq", 2.0)], "b"),
        ([("nothing", "eq", 1)], ""),
        ([("label", "eq", "' OR 1=1 --")], ""),
    ],
)
def test_where_compares_by_type_and_value(
    store: GalleryStore, vectors: GalleryVectors, where: list[tuple], expected: str
) -> None:
    for number, (id, metadata) in enumerate(CARDS.items()):
        store.put(id, image(number), metadata)
    conditions = [Condition(*each) for each in where]
    images, count = store.page(None, 10, conditions)
    assert "".join(each.id for each in images) == expected
    assert count == len(expected)
    keys = np.array([5, 1, 2, 3, 4, 99])
    found = keys[vectors.meeting(keys, conditions)].tolist()
    assert sorted(found) == sorted(each.key for each in images)
    assert store.by_key(found) == ({each.key: each for each in images}, store.database.state())
    many = np.arange(10_000)
    assert many[vectors.meeting(many, conditions)].tolist() == sorted(found)


def test_reindex_without_a_gap(
    store: GalleryStore, vectors: GalleryVectors, database: GalleryDatabase
) -> None:
    for number in range(3):
        store.put(f"i{number}", image(number), {})
    vectors.start_reindex(OTHER)
    assert database.state().embedders == (NET, OTHER)
    with pytest.raises(EmbeddersChanged):
        store.put("late", image(9), {})
    store.put("late", image(9, NET, OTHER), {})
    assert vectors.missing(OTHER, 0, 2) == [1, 2]
    assert vectors.missing(OTHER, 2, 2) == [3]
    assert not vectors.activate(OTHER)
    store.delete("i1")
    vectors.backfill(OTHER, {key: image(key, OTHER).embeddings[OTHER] for key in (1, 2, 3)})
    assert vectors.extent(OTHER).count == 3
    assert vectors.activate(OTHER)
    assert not vectors.activate(OTHER)
    assert (database.state().embedder, database.state().target) == (OTHER, None)
    assert [vectors.drop_unused(2), vectors.drop_unused(2)] == [2, 1]
    assert history(vectors) == [(5, 2, False)]
    assert [key for _, key, there in history(vectors, OTHER) if there] == [1, 3, 4]


def test_reindex_is_cancelled_by_the_active_embedder(
    store: GalleryStore, vectors: GalleryVectors, database: GalleryDatabase
) -> None:
    store.put("a", image(1), {})
    vectors.start_reindex(OTHER)
    vectors.backfill(OTHER, {1: image(1, OTHER).embeddings[OTHER]})
    vectors.start_reindex(NET)
    assert database.state().embedders == (NET,)
    assert vectors.drop_unused(10) == 1


def test_reindex_of_an_empty_store(vectors: GalleryVectors, database: GalleryDatabase) -> None:
    vectors.start_reindex(OTHER)
    assert database.state().embedders == (OTHER,)


def test_concurrent_put_and_delete(
    store: GalleryStore, vectors: GalleryVectors, database: GalleryDatabase
) -> None:
    def churn(seed: int) -> None:
        for number in range(10):
            store.put("same", image(seed * 100 + number), {"seed": seed})
            store.delete("same")

    threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = database.state()
    there = store.get("same")
    assert state.images == (there is not None)
    changes = history(vectors)
    assert [number for number, _, _ in changes] == sorted({number for number, _, _ in changes})
    assert changes[-1][0] == state.sequence
    assert vectors.extent(NET).count == state.images


def test_no_writes_with_an_obstacle(unprepared: Engine, tmp_path: Path) -> None:
    store = GalleryStore(GalleryDatabase(unprepared, lambda: "the directory is read-only"), QUOTA)
    with pytest.raises(StorageUnavailable, match="read-only"):
        store.put("a", image(1), {})
    assert list(tmp_path.iterdir()) == []


def test_database_of_a_newer_version(
    store: GalleryStore, engine: Engine, migrated_url: str | None, tmp_path: Path
) -> None:
    store.put("a", image(1), {})
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    started_later = open_database(migrated_url, tmp_path)
    fresh = GalleryStore(GalleryDatabase(started_later), QUOTA)
    for attempt in (lambda: fresh.get("a"), lambda: fresh.page(None, 1), lambda: fresh.delete("a")):
        with pytest.raises(StorageUnavailable, match="schema 9999 of a newer version"):
            attempt()
    started_later.dispose()


@pytest.mark.databases("sqlite")
def test_deleted_index_file_is_recreated(store: GalleryStore, engine: Engine, tmp_path: Path) -> None:
    store.put("a", image(1), {})
    engine.dispose()
    for file in tmp_path.iterdir():
        file.unlink()
    assert store.get("a") is None
    assert store.put("a", image(1), {}).status == "added"
