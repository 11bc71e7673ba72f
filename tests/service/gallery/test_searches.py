"""One search is open at a time, and only by the network that answers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from service.errors import StorageUnavailable
from service.gallery.database import GalleryDatabase
from service.gallery.records import EmbeddersChanged, NewImage, Quota
from service.gallery.searches import Searches, open_nearest
from service.gallery.store import GalleryStore
from service.gallery.vectors import GalleryVectors
from service.storage.database import open_database

ONE, OTHER = "one@0123456789ab", "other@ba9876543210"

pytestmark = pytest.mark.databases("sqlite", "postgresql")


@pytest.fixture
def database(tmp_path: Path, migrated_url: str | None) -> Iterator[GalleryDatabase]:
    engine = open_database(migrated_url, tmp_path)
    yield GalleryDatabase(engine)
    engine.dispose()


@pytest.fixture
def vectors(database: GalleryDatabase) -> GalleryVectors:
    """Of three images, whose embeddings by ONE are the axes."""
    store = GalleryStore(database, Quota(10, 1000))
    for axis in range(3):
        embeddings = {ONE: np.eye(3, dtype=np.float32)[axis]}
        store.put(f"i{axis}", NewImage(bytes([axis]), str(axis), "png", 1, 1, 0, b"", embeddings), {})
    return GalleryVectors(database)


@pytest.fixture
def searches(vectors: GalleryVectors, tmp_path: Path) -> Iterator[Searches]:
    opened = partial(open_nearest, vectors, folder=tmp_path / "index", exact_up_to=100)
    searches = Searches(opened, lambda: vectors.database.state().embedder)
    yield searches
    searches.close()


def nearest(searches: Searches, embedder: str, axis: int) -> int:
    keys, cosines = searches.open_for(embedder, 3).nearest(np.eye(3, dtype=np.float32)[axis], 1, ())
    assert cosines.tolist() == [1.0]
    return int(keys[0])


def test_it_is_opened_once_and_told_of(searches: Searches) -> None:
    assert searches.status is None
    assert [nearest(searches, ONE, axis) for axis in range(3)] == [1, 2, 3]
    assert searches.open_for(ONE, 3) is searches.open_for(ONE, 3)
    assert searches.status is not None
    searches.close()
    assert searches.status is None


def test_search_closes_before_embeddings_are_dropped(searches: Searches, vectors: GalleryVectors) -> None:
    assert nearest(searches, ONE, 0) == 1
    with pytest.raises(EmbeddersChanged):
        searches.open_for(OTHER, 3)
    searches.switch(partial(vectors.start_reindex, OTHER))
    assert searches.status is not None
    vectors.backfill(OTHER, {key: np.eye(3, dtype=np.float32)[3 - key] for key in (1, 2, 3)})
    assert searches.switch(partial(vectors.activate, OTHER))
    assert searches.status is None
    with pytest.raises(EmbeddersChanged):
        searches.open_for(ONE, 3)
    assert [nearest(searches, OTHER, axis) for axis in range(3)] == [3, 2, 1]


def test_failed_switch_closes_the_search(searches: Searches) -> None:
    """Whether it was done is not known then."""
    assert nearest(searches, ONE, 0) == 1

    def fails() -> None:
        raise StorageUnavailable("the connection was lost")

    with pytest.raises(StorageUnavailable):
        searches.switch(fails)
    assert searches.status is None
    assert nearest(searches, ONE, 1) == 2
