"""The embeddings of the gallery, kept: what an index is made of, and how one network follows another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, bindparam, delete, func, select

from service.gallery.database import GalleryDatabase, change_state, read_state
from service.gallery.metadata import matching_keys
from service.gallery.records import Change, Condition, Embeddings, Extent, Vector
from service.gallery.tables import gallery_embeddings, gallery_images, gallery_tombstones
from service.storage.database import upsert

_IN_ONE_QUERY = 500
_WORTH_NAMING = 5_000
"""So many images are asked about by name; about more, the whole gallery is asked at once."""


# Made once: making it took as long as asking it, and every search does.
_BY_KEYS = select(gallery_embeddings.c.key, gallery_embeddings.c.vector).where(
    gallery_embeddings.c.embedder == bindparam("embedder"),
    gallery_embeddings.c.key.in_(bindparam("keys", expanding=True)),
)


class GalleryVectors:
    """Embeddings by embedder and key. Methods raise StorageUnavailable; any thread may call."""

    def __init__(self, database: GalleryDatabase) -> None:
        """Does not connect."""
        self.database = database

    def changes_after(self, embedder: str, sequence: int, limit: int) -> list[Change]:
        """The next `limit` changes after the one of that number, in order.

        An image that came and went since is only told of by its tombstone.
        """
        put = (
            select(gallery_embeddings.c.key, gallery_embeddings.c.vector)
            .where(gallery_embeddings.c.embedder == embedder, gallery_embeddings.c.key > sequence)
            .order_by(gallery_embeddings.c.key)
            .limit(limit)
        )
        gone = (
            select(gallery_tombstones)
            .where(gallery_tombstones.c.sequence > sequence)
            .order_by(gallery_tombstones.c.sequence)
            .limit(limit)
        )
        with self.database.reading() as connection:
            if connection is None:
                return []
            changes = [Change(key, key, vector) for key, vector in connection.execute(put)]
            changes += [Change(number, key, None) for number, key in connection.execute(gone)]
        return sorted(changes, key=lambda change: change.sequence)[:limit]

    def vectors(
        self, embedder: str, keys: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Those of `keys` (at most some hundreds) that have an embedding, int64 (M,), and these, float32
        (M, D), in the same order, which need not be that of `keys`."""
        wanted = {"embedder": embedder, "keys": [int(key) for key in keys]}
        with self.database.reading() as connection:
            rows = [] if connection is None else connection.execute(_BY_KEYS, wanted).all()
        if not rows:
            return np.empty(0, np.int64), np.empty((0, 0), np.float32)
        return np.array([key for key, _ in rows], np.int64), np.stack([vector for _, vector in rows])

    def extent(self, embedder: str) -> Extent:
        """The last change, and how many images have an embedding of this embedder, in one view."""
        count = select(func.count()).where(gallery_embeddings.c.embedder == embedder)
        with self.database.reading() as connection:
            if connection is None:
                return Extent(0, 0)
            return Extent(read_state(connection).sequence, connection.execute(count).scalar_one())

    def meeting(self, keys: NDArray[np.int64], where: Sequence[Condition]) -> NDArray[np.bool_]:
        """Which of the images of these keys meet all conditions (one at least), bool (N,)."""
        found: list[int] = []
        with self.database.reading() as connection:
            if connection is None:
                return np.zeros(len(keys), np.bool_)
            if len(keys) > _WORTH_NAMING:
                found += connection.execute(matching_keys(where)).scalars().all()
            else:
                for start in range(0, len(keys), _IN_ONE_QUERY):
                    some = keys[start : start + _IN_ONE_QUERY].tolist()
                    found += connection.execute(matching_keys(where, among=some)).scalars().all()
        return np.isin(keys, np.array(found, np.int64))

    def missing(self, embedder: str, after: int, limit: int) -> list[int]:
        """Return the next `limit` keys greater than `after`, ascending, that lack an embedding by it."""
        query = _missing(embedder).where(gallery_images.c.key > after)
        with self.database.reading() as connection:
            if connection is None:
                return []
            return list(connection.execute(query.order_by(gallery_images.c.key).limit(limit)).scalars().all())

    def start_reindex(self, embedder: str) -> None:
        """Have all images embedded by this embedder; `activate` makes it the active one.

        The active embedder ends a reindexing that was started. Without images, it is active at once.
        """
        with self.database.writing() as (connection, state):
            if state.images == 0:
                change_state(connection, embedder=embedder, target=None, revision=state.revision + 1)
            else:
                target = None if embedder == state.embedder else embedder
                change_state(connection, target=target, revision=state.revision + 1)

    def backfill(self, embedder: str, vectors: Mapping[int, Vector]) -> None:
        """Store embeddings of images that lack them; those of images that are gone by now are dropped."""
        with self.database.writing() as (connection, _):
            there = gallery_images.c.key.in_([int(key) for key in vectors])
            for key in connection.execute(select(gallery_images.c.key).where(there)).scalars().all():
                write_vectors(connection, key, {embedder: vectors[key]})

    def activate(self, embedder: str) -> bool:
        """Make `embedder` the active one, if it is the target and no image lacks an embedding by it."""
        with self.database.writing() as (connection, state):
            if state.target != embedder or connection.execute(_missing(embedder).limit(1)).first():
                return False
            change_state(connection, embedder=embedder, target=None, revision=state.revision + 1)
            return True

    def drop_unused(self, limit: int) -> int:
        """Drop up to `limit` embeddings of neither the active embedder nor the target; return how many."""
        with self.database.writing() as (connection, state):
            unused = gallery_embeddings.c.embedder.not_in(state.embedders)
            query = select(gallery_embeddings.c.embedder, gallery_embeddings.c.key).where(unused).limit(limit)
            rows = connection.execute(query).all()
            for embedder in {each for each, _ in rows}:
                keys = [key for each, key in rows if each == embedder]
                connection.execute(
                    delete(gallery_embeddings).where(
                        gallery_embeddings.c.embedder == embedder, gallery_embeddings.c.key.in_(keys)
                    )
                )
            return len(rows)


def write_vectors(connection: Connection, key: int, embeddings: Embeddings) -> None:
    """Keep embeddings of one image, over what there was."""
    upsert(
        connection,
        gallery_embeddings,
        [
            {"embedder": embedder, "key": key, "vector": np.asarray(vector, np.float32)}
            for embedder, vector in embeddings.items()
        ],
    )


def remove_vectors(connection: Connection, key: int) -> None:
    """Forget all embeddings of an image."""
    connection.execute(delete(gallery_embeddings).where(gallery_embeddings.c.key == key))


def _missing(embedder: str) -> Select[int]:
    there = select(gallery_embeddings.c.key).where(
        gallery_embeddings.c.embedder == embedder, gallery_embeddings.c.key == gallery_images.c.key
    )
    return select(gallery_images.c.key).where(~there.exists())
