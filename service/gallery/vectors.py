"""Store of the gallery's embeddings, with the changes that a vector index follows, and with re-indexing."""

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
"""Maximum number of keys that are listed in queries. For more keys, the whole gallery is queried."""


# Built once, because building it takes as long as running it, and every search runs it.
_BY_KEYS = select(gallery_embeddings.c.key, gallery_embeddings.c.vector).where(
    gallery_embeddings.c.embedder == bindparam("embedder"),
    gallery_embeddings.c.key.in_(bindparam("keys", expanding=True)),
)


class GalleryVectors:
    """The stored embeddings, by embedder and key. Thread-safe. Methods raise StorageUnavailable."""

    def __init__(self, database: GalleryDatabase) -> None:
        """Does not connect to the database."""
        self.database = database

    def changes_after(self, embedder: str, sequence: int, limit: int) -> list[Change]:
        """Return up to `limit` changes of the gallery that follow the change with the number `sequence`.

        The changes are in the order of their numbers (see `Change`). Of the embeddings that were added, only
        those by `embedder` are returned. An image that was added and deleted after `sequence` appears only as
        deleted.
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
        """Return the `keys` for which there are embeddings by `embedder`, and these embeddings.

        There may be at most some hundreds of keys. The results, int64 (M,) and float32 (M, D), have the same
        order, which may differ from that of `keys`.
        """
        parameters = {"embedder": embedder, "keys": [int(key) for key in keys]}
        with self.database.reading() as connection:
            rows = [] if connection is None else connection.execute(_BY_KEYS, parameters).all()
        if not rows:
            return np.empty(0, np.int64), np.empty((0, 0), np.float32)
        return np.array([key for key, _ in rows], np.int64), np.stack([vector for _, vector in rows])

    def extent(self, embedder: str) -> Extent:
        """Return the sequence number of the last change, and how many embeddings by `embedder` there are.

        Both are read in one transaction.
        """
        count = select(func.count()).where(gallery_embeddings.c.embedder == embedder)
        with self.database.reading() as connection:
            if connection is None:
                return Extent(0, 0)
            return Extent(read_state(connection).sequence, connection.execute(count).scalar_one())

    def meeting(self, keys: NDArray[np.int64], where: Sequence[Condition]) -> NDArray[np.bool_]:
        """Return for each of `keys`, int64 (N,), if its image meets all conditions in `where`, bool (N,).

        `where` must not be empty.
        """
        matching: list[int] = []
        with self.database.reading() as connection:
            if connection is None:
                return np.zeros(len(keys), np.bool_)
            if len(keys) > _WORTH_NAMING:
                matching += connection.execute(matching_keys(where)).scalars().all()
            else:
                for start in range(0, len(keys), _IN_ONE_QUERY):
                    batch = keys[start : start + _IN_ONE_QUERY].tolist()
                    matching += connection.execute(matching_keys(where, among=batch)).scalars().all()
        return np.isin(keys, np.array(matching, np.int64))

    def missing(self, embedder: str, after: int, limit: int) -> list[int]:
        """Return up to `limit` keys of images that lack an embedding by `embedder`, in ascending order.

        Only keys above `after` are returned.
        """
        query = _missing(embedder).where(gallery_images.c.key > after)
        with self.database.reading() as connection:
            if connection is None:
                return []
            return list(connection.execute(query.order_by(gallery_images.c.key).limit(limit)).scalars().all())

    def start_reindex(self, embedder: str) -> None:
        """Make `embedder` the target of a re-index, or the active embedder if there are no images.

        If `embedder` is active already, a re-index under way is cancelled.
        """
        with self.database.writing() as (connection, state):
            if state.images == 0:
                change_state(connection, embedder=embedder, target=None, revision=state.revision + 1)
            else:
                target = None if embedder == state.embedder else embedder
                change_state(connection, target=target, revision=state.revision + 1)

    def backfill(self, embedder: str, vectors: Mapping[int, Vector]) -> None:
        """Store the embeddings of those images that still exist, by key, and ignore the others."""
        with self.database.writing() as (connection, _):
            exists = gallery_images.c.key.in_([int(key) for key in vectors])
            for key in connection.execute(select(gallery_images.c.key).where(exists)).scalars().all():
                write_vectors(connection, key, {embedder: vectors[key]})

    def activate(self, embedder: str) -> bool:
        """Activate `embedder` if it is the target and no image lacks its embedding.

        Returns whether `embedder` was activated.
        """
        with self.database.writing() as (connection, state):
            if state.target != embedder or connection.execute(_missing(embedder).limit(1)).first():
                return False
            change_state(connection, embedder=embedder, target=None, revision=state.revision + 1)
            return True

    def drop_unused(self, limit: int) -> int:
        """Delete up to `limit` embeddings by unused networks, and return how many were deleted.

        A network is unused if it is neither the active one nor the target of a re-index.
        """
        with self.database.writing() as (connection, state):
            unused = gallery_embeddings.c.embedder.not_in(state.embedders)
            query = select(gallery_embeddings.c.embedder, gallery_embeddings.c.key).where(unused).limit(limit)
            rows = connection.execute(query).all()
            for embedder in {row_embedder for row_embedder, _ in rows}:
                keys = [key for row_embedder, key in rows if row_embedder == embedder]
                connection.execute(
                    delete(gallery_embeddings).where(
                        gallery_embeddings.c.embedder == embedder, gallery_embeddings.c.key.in_(keys)
                    )
                )
            return len(rows)


def write_vectors(connection: Connection, key: int, embeddings: Embeddings) -> None:
    """Insert the embeddings of one image, or replace them if they exist already."""
    upsert(
        connection,
        gallery_embeddings,
        [
            {"embedder": embedder, "key": key, "vector": np.asarray(vector, np.float32)}
            for embedder, vector in embeddings.items()
        ],
    )


def remove_vectors(connection: Connection, key: int) -> None:
    """Delete all embeddings of an image."""
    connection.execute(delete(gallery_embeddings).where(gallery_embeddings.c.key == key))


def _missing(embedder: str) -> Select[int]:
    embedding = select(gallery_embeddings.c.key).where(
        gallery_embeddings.c.embedder == embedder, gallery_embeddings.c.key == gallery_images.c.key
    )
    return select(gallery_images.c.key).where(~embedding.exists())
