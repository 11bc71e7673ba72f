"""pgvector's answers: those of NumPy while exact, nearly those with an index, and always of what is there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text

from service.gallery.database import GalleryDatabase
from service.gallery.postgres import PostgresqlNearest, index_name
from service.gallery.records import Condition, Metadata, NewImage, Quota, SearchStatus, Vector
from service.gallery.store import GalleryStore
from service.gallery.vectors import GalleryVectors
from service.storage.database import open_database
from tests.helpers.postgres import PostgresServer
from tests.helpers.until import until

pytestmark = pytest.mark.databases("postgresql")

EMBEDDER = "tiny's 100%@0123456789ab"
DIMENSIONS = 24


@pytest.fixture
def database(migrated_url: str, tmp_path: Path) -> Iterator[GalleryDatabase]:
    engine = open_database(migrated_url, tmp_path)
    yield GalleryDatabase(engine)
    engine.dispose()


@pytest.fixture
def store(database: GalleryDatabase) -> GalleryStore:
    return GalleryStore(database, Quota(images=100_000, bytes=1 << 40))


def vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    found = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def put(store: GalleryStore, id: str, vector: Vector, metadata: Metadata | None = None) -> int:
    content = id.encode() + vector.tobytes()
    image = NewImage(
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        format="JPEG",
        width=1,
        height=1,
        perceptual_hash=0,
        thumbnail=b"",
        embeddings={EMBEDDER: vector},
    )
    return store.put(id, image, metadata or {}).image.key


def ranked(kept: dict[int, Vector], query: Vector, k: int) -> list[int]:
    return sorted(kept, key=lambda key: (-float(kept[key] @ query), key))[:k]


def recall(
    search: PostgresqlNearest,
    kept: dict[int, Vector],
    queries: NDArray[np.float32],
    where: Sequence[Condition] = (),
) -> float:
    """The share of the true ten nearest that are found, over all queries."""
    hits = sum(
        len(set(search.nearest(query, 10, where)[0].tolist()) & set(ranked(kept, query, 10)))
        for query in queries
    )
    return hits / (10 * len(queries))


def test_exact_answers_are_those_of_numpy(database: GalleryDatabase, store: GalleryStore) -> None:
    search = PostgresqlNearest(database, EMBEDDER, DIMENSIONS)
    assert [part.shape for part in search.nearest(vectors(1)[0], 3)] == [(0,), (0,)]
    kept = {put(store, f"i{n}", vector, {"n": n}): vector for n, vector in enumerate(vectors(40))}
    query = vectors(1, seed=1)[0]
    keys, cosines = search.nearest(query, 7)
    assert keys.tolist() == ranked(kept, query, 7)
    assert (keys.dtype, cosines.dtype) == (np.int64, np.float32)
    np.testing.assert_allclose(cosines, [kept[key] @ query for key in keys.tolist()], atol=1e-6)
    assert len(search.nearest(query, 100)[0]) == 40
    few = {key: vector for key, vector in kept.items() if key <= 5}
    assert search.nearest(query, 10, [Condition("n", "lt", 5)])[0].tolist() == ranked(few, query, 10)
    assert search.nearest(query, 10, [Condition("n", "eq", "5")])[0].tolist() == []
    assert search.status == SearchStatus("exact", 0)
    search.close()


def test_a_vector_comes_back_as_it_went_in(database: GalleryDatabase, store: GalleryStore) -> None:
    odd = np.array([1e-38, -0.0, 1 / 3, 0.1, 1e-7, -1] * 4, np.float32)
    key = put(store, "odd", odd)
    [_], [kept] = GalleryVectors(database).vectors(EMBEDDER, [key])
    assert kept.tobytes() == odd.tobytes()


@pytest.mark.slow
def test_index_is_built_and_used(
    database: GalleryDatabase, store: GalleryStore, postgres: PostgresServer
) -> None:
    search = PostgresqlNearest(database, EMBEDDER, DIMENSIONS, exact_up_to=100)
    all_vectors = vectors(200)
    kept = {put(store, f"i{n}", vector, {"n": n % 10}): vector for n, vector in enumerate(all_vectors)}
    queries = vectors(20, seed=1)
    assert recall(search, kept, queries) == 1.0
    search.notify()
    until(lambda: search.status.mode == "hnsw", "the index is built")
    assert recall(search, kept, queries) >= 0.99
    database.engine.dispose()  # a connection that ends says what it did
    with postgres.connect() as connection:
        used = "SELECT sum(idx_scan) FROM pg_stat_user_indexes WHERE indexrelname = %s"
        name = (index_name(EMBEDDER),)
        until(lambda: connection.execute(used, name).fetchone() >= (20,), "the index is said to be used")
    half = {key: vector for key, vector in kept.items() if (key - 1) % 10 >= 5}
    assert recall(search, half, queries, [Condition("n", "gte", 5)]) >= 0.99
    tenth = {key: vector for key, vector in kept.items() if (key - 1) % 10 == 3}
    assert recall(search, tenth, queries, [Condition("n", "eq", 3)]) == 1.0
    search.close()


@pytest.mark.slow
def test_writes_are_visible_to_every_replica(
    database: GalleryDatabase, store: GalleryStore, migrated_url: str, tmp_path: Path
) -> None:
    kept = {put(store, f"i{n}", vector): vector for n, vector in enumerate(vectors(150))}
    other_database = GalleryDatabase(open_database(migrated_url, tmp_path))
    replicas = [
        PostgresqlNearest(each, EMBEDDER, DIMENSIONS, exact_up_to=100) for each in (database, other_database)
    ]
    for search in replicas:
        search.notify()
    for search in replicas:
        until(lambda search=search: search.status.mode == "hnsw", "both know of the index")
    new = vectors(1, seed=9)[0]
    key = put(store, "new", new)
    assert [search.nearest(new, 1)[0].tolist() for search in replicas] == [[key], [key]]
    store.delete("new")
    assert [key in search.nearest(new, 50)[0] for search in replicas] == [False, False]
    assert [search.nearest(new, 1)[0].tolist() for search in replicas] == [ranked(kept, new, 1)] * 2
    with database.engine.connect() as connection:
        count = text(
            "SELECT count(*) FROM pg_indexes WHERE indexname = :name AND schemaname = current_schema()"
        )
        assert connection.execute(count, {"name": index_name(EMBEDDER)}).scalar() == 1
    for search in replicas:
        search.close()
    other_database.engine.dispose()


@pytest.mark.slow
def test_a_build_that_failed_is_made_good(database: GalleryDatabase, store: GalleryStore) -> None:
    for n, vector in enumerate(vectors(120)):
        put(store, f"i{n}", vector)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        broken = f"CREATE INDEX {index_name(EMBEDDER)} ON gallery_embeddings (key)"
        connection.execute(text(broken))
        connection.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:name)"),
            {"name": index_name(EMBEDDER)},
        )
        connection.execute(text(f"CREATE INDEX {index_name('gone@1')} ON gallery_embeddings (key)"))
    search = PostgresqlNearest(database, EMBEDDER, DIMENSIONS, exact_up_to=100)
    search.nearest(vectors(1)[0], 1)  # finds the index missing
    until(lambda: search.status.mode == "hnsw", "the index is built anew")
    with database.engine.connect() as connection:
        found = text("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()")
        indexes = dict(connection.execute(found).all())
    assert "hnsw" in indexes[index_name(EMBEDDER)]
    assert index_name("gone@1") not in indexes
    search.close()
