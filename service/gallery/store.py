"""Store of the gallery's images. Each call puts, adds, describes, deletes or reads in one transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from service.errors import GalleryFull
from service.gallery.database import GalleryDatabase, change_state, read_state
from service.gallery.metadata import matching_keys, remove_fields, to_json, write_fields
from service.gallery.records import (
    Condition,
    EmbeddersChanged,
    GalleryState,
    Metadata,
    NewImage,
    Put,
    Quota,
    StoredImage,
)
from service.gallery.tables import (
    gallery_contents,
    gallery_images,
    gallery_tombstones,
)
from service.gallery.vectors import remove_vectors, write_vectors


class GalleryStore:
    """Store of images, thread-safe. Writes are on disk when a method returns.

    Methods raise StorageUnavailable.
    """

    def __init__(
        self, database: GalleryDatabase, quota: Quota, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Does not connect to the database."""
        self.database = database
        self._quota = quota
        self._clock = clock

    def put(self, id: str, image: NewImage, metadata: Metadata) -> Put:
        """Store an image under `id`, or replace the image that has this id.

        The status of the result is "added", "replaced" or "unchanged". Raises GalleryFull, and
        EmbeddersChanged if the image lacks an embedding that the gallery now needs.
        """
        with self.database.writing() as (connection, state):
            before = _find(connection, id)
            if before is not None and before.sha256 == image.sha256:
                return _described(connection, state, before, metadata)
            return self._insert(connection, state, id, image, metadata, before)

    def add(self, image: NewImage, metadata: Metadata, ids: Sequence[str]) -> Put:
        """Store an image under the first id in `ids` that is free, unless its bytes are stored already.

        The status of the result is "added", or "exists" if the bytes are stored already. Raises the errors of
        `put`, and ValueError if no id is free.
        """
        with self.database.writing() as (connection, state):
            existing = _find_by_sha256(connection, image.sha256)
            if existing is not None:
                return Put("exists", existing)
            free = next((id for id in ids if _find(connection, id) is None), None)
            if free is None:
                raise ValueError("ids: none is free")
            return self._insert(connection, state, free, image, metadata, None)

    def describe(self, id: str, sha256: str, metadata: Metadata) -> Put | None:
        """Replace the metadata of an image. The status of the result is "replaced" or "unchanged".

        Returns None if there is no image with this id and `sha256`.
        """
        with self.database.writing() as (connection, state):
            before = _find(connection, id)
            if before is None or before.sha256 != sha256:
                return None
            return _described(connection, state, before, metadata)

    def delete(self, id: str) -> bool:
        """Delete the image with this id. Return False if there is no such image."""
        with self.database.writing() as (connection, state):
            before = _find(connection, id)
            if before is None:
                return False
            _remove(connection, before, sequence=state.sequence + 1)
            change_state(
                connection,
                sequence=state.sequence + 1,
                revision=state.revision + 1,
                images=state.images - 1,
                bytes=state.bytes - before.bytes,
            )
            return True

    def check_room(self, state: GalleryState) -> None:
        """Raise GalleryFull if there is no room for an image of one byte.

        Call this before an image is embedded, so that it is not embedded in vain.
        """
        self._check_quota(state.images + 1, state.bytes + 1)

    def get(self, id: str) -> StoredImage | None:
        """Return the image with this id, or None if there is no such image."""
        with self.database.reading() as connection:
            return None if connection is None else _find(connection, id)

    def find_by_sha256(self, sha256: str) -> StoredImage | None:
        """Return the oldest image whose file has this SHA-256, or None if there is no such image."""
        with self.database.reading() as connection:
            return None if connection is None else _find_by_sha256(connection, sha256)

    def by_key(self, keys: Sequence[int]) -> tuple[Mapping[int, StoredImage], GalleryState]:
        """Return the images that have these keys, by key, and the gallery's state, from one transaction.

        Keys of images that do not exist are ignored. There may be at most some hundreds of keys.
        """
        with self.database.reading() as connection:
            if connection is None:
                return {}, GalleryState()
            rows = connection.execute(select(gallery_images).where(gallery_images.c.key.in_(keys)))
            return {row["key"]: _image(row) for row in rows.mappings()}, read_state(connection)

    def page(
        self, after: str | None, limit: int, where: Sequence[Condition] = ()
    ) -> tuple[list[StoredImage], int]:
        """Return the next `limit` images after the id `after`, ordered by id, and the number of all images.

        `after` and `limit` do not change this number. If `after` is None, the first images are returned. If
        `where` has conditions, only images that meet them are returned and counted.
        """
        query = select(gallery_images).order_by(gallery_images.c.id).limit(limit)
        count = select(func.count()).select_from(gallery_images)
        if after is not None:
            query = query.where(gallery_images.c.id > after)
        if where:
            matches = gallery_images.c.key.in_(matching_keys(where))
            query, count = query.where(matches), count.where(matches)
        with self.database.reading() as connection:
            if connection is None:
                return [], 0
            images = [_image(row) for row in connection.execute(query).mappings()]
            return images, connection.execute(count).scalar_one()

    def original(self, key: int) -> bytes | None:
        """Return the bytes of the image's original file, or None if there is no image with this key."""
        return self._bytes(gallery_contents.c.original, key)

    def thumbnail(self, key: int) -> bytes | None:
        """Return the image's thumbnail, a JPEG, or None if there is no image with this key."""
        return self._bytes(gallery_contents.c.thumbnail, key)

    def _bytes(self, column: Any, key: int) -> bytes | None:
        with self.database.reading() as connection:
            if connection is None:
                return None
            content = connection.execute(select(column).where(gallery_contents.c.key == key)).scalar()
            return None if content is None else bytes(content)

    def _insert(
        self,
        connection: Connection,
        state: GalleryState,
        id: str,
        image: NewImage,
        metadata: Metadata,
        before: StoredImage | None,
    ) -> Put:
        embedder = state.embedder or next(iter(image.embeddings))
        if not set(state.embedders) | {embedder} <= image.embeddings.keys():
            raise EmbeddersChanged
        images = state.images + (before is None)
        total = state.bytes + len(image.content) - (0 if before is None else before.bytes)
        self._check_quota(images, total)
        key = state.sequence + 1
        if before is not None:
            _remove(connection, before, sequence=key)
            key += 1
        now_ms = int((self._clock() if before is None else before.created_at) * 1000)
        facts = {
            "key": key,
            "id": id,
            "sha256": image.sha256,
            "perceptual_hash": _signed(image.perceptual_hash),
            "format": image.format,
            "width": image.width,
            "height": image.height,
            "bytes": len(image.content),
            "metadata": to_json(metadata),
            "created_ms": now_ms,
        }
        connection.execute(insert(gallery_images).values(**facts))
        connection.execute(
            insert(gallery_contents).values(key=key, original=image.content, thumbnail=image.thumbnail)
        )
        write_vectors(
            connection, key, {name: image.embeddings[name] for name in state.embedders or [embedder]}
        )
        write_fields(connection, key, metadata)
        change_state(
            connection,
            embedder=embedder,
            sequence=key,
            revision=state.revision + 1,
            images=images,
            bytes=total,
        )
        return Put("added" if before is None else "replaced", _image(facts))

    def _check_quota(self, images: int, total: int) -> None:
        if images > self._quota.images:
            raise GalleryFull(f"gallery: full with {images - 1} images (limit: {self._quota.images})")
        if total > self._quota.bytes:
            raise GalleryFull(f"gallery: {total} bytes with this image (limit: {self._quota.bytes} bytes)")


def _described(connection: Connection, state: GalleryState, before: StoredImage, metadata: Metadata) -> Put:
    text = to_json(metadata)
    if text == to_json(before.metadata):
        return Put("unchanged", before)
    connection.execute(update(gallery_images).where(gallery_images.c.key == before.key).values(metadata=text))
    write_fields(connection, before.key, metadata)
    change_state(connection, revision=state.revision + 1)
    image = _find(connection, before.id)
    assert image is not None
    return Put("replaced", image)


def _remove(connection: Connection, image: StoredImage, *, sequence: int) -> None:
    for table in (gallery_images, gallery_contents):
        connection.execute(delete(table).where(table.c.key == image.key))
    remove_vectors(connection, image.key)
    remove_fields(connection, image.key)
    connection.execute(insert(gallery_tombstones).values(sequence=sequence, key=image.key))


def _find(connection: Connection, id: str) -> StoredImage | None:
    query = select(gallery_images).where(gallery_images.c.id == id)
    row = connection.execute(query).mappings().first()
    return None if row is None else _image(row)


def _find_by_sha256(connection: Connection, sha256: str) -> StoredImage | None:
    query = select(gallery_images).where(gallery_images.c.sha256 == sha256).order_by(gallery_images.c.key)
    row = connection.execute(query.limit(1)).mappings().first()
    return None if row is None else _image(row)


def _image(row: RowMapping | dict[str, Any]) -> StoredImage:
    facts = dict(row)
    return StoredImage(
        metadata=json.loads(facts.pop("metadata")),
        created_at=facts.pop("created_ms") / 1000,
        perceptual_hash=facts.pop("perceptual_hash") & 0xFFFF_FFFF_FFFF_FFFF,
        **facts,
    )


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits
