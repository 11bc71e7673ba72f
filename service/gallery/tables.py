"""SQLAlchemy tables of the gallery. The migrations in `service/storage/migrations` create them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

from service.storage.database import metadata

BYTEWISE = Text().with_variant(Text(collation="C"), "postgresql")
BYTEWISE_255 = String(255).with_variant(String(255, collation="C"), "postgresql")
"""Text type whose values PostgreSQL compares byte by byte, as SQLite does.

So ids and strings have the same order in every database."""

_BYTES = np.dtype("<f4")


class EmbeddingVector(TypeDecorator[NDArray[np.float32]]):
    """Type of a column of embeddings. The database stores pgvector's type in PostgreSQL, and bytes in SQLite.

    A value is float32 (D,) and is read back bit for bit. D may differ from row to row.
    """

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type that the column has in the database."""
        if dialect.name != "postgresql":
            return dialect.type_descriptor(LargeBinary())
        from pgvector.sqlalchemy import VECTOR  # lazy, because it imports PostgreSQL's dialects

        return dialect.type_descriptor(VECTOR())

    def process_bind_param(self, value: NDArray[np.float32] | None, dialect: Dialect) -> Any:
        """Convert a vector to the value that is sent to the database."""
        if value is None or dialect.name == "postgresql":
            return value
        return np.asarray(value, _BYTES).tobytes()

    def process_result_value(self, value: Any, dialect: Dialect) -> NDArray[np.float32] | None:
        """Convert a value from the database to a vector."""
        if value is None:
            return None
        if dialect.name == "postgresql":
            return np.asarray(value, np.float32)
        return np.frombuffer(value, _BYTES).astype(np.float32, copy=False)


# The database is authoritative. `key` is the number of the change that added an image; new bytes under an
# existing id get a new key. Numbers are never reused, so a vector index can catch up from its last number.
gallery_state = Table(
    "gallery_state",
    metadata,
    Column("name", String(16), primary_key=True, comment="There is one row, named gallery"),
    Column("embedder", String(80), nullable=True, comment="The network that answers: model@start of sha256"),
    Column("target", String(80), nullable=True, comment="The one that all images are being embedded with"),
    Column("sequence", BigInteger, nullable=False, comment="Number of the last change"),
    Column("revision", BigInteger, nullable=False, comment="Grows with every write, of metadata too"),
    Column("images", BigInteger, nullable=False, comment="How many there are"),
    Column("bytes", BigInteger, nullable=False, comment="Of all originals together"),
)

gallery_images = Table(
    "gallery_images",
    metadata,
    Column("key", BigInteger, primary_key=True, autoincrement=False),
    Column("id", BYTEWISE_255, nullable=False),
    Column("sha256", String(64), nullable=False, comment="Of the original bytes"),
    Column("perceptual_hash", BigInteger, nullable=False, comment="64 bits, as a signed number"),
    Column("format", String(8), nullable=False),
    Column("width", Integer, nullable=False, comment="Pixels, upright"),
    Column("height", Integer, nullable=False, comment="Pixels, upright"),
    Column("bytes", BigInteger, nullable=False, comment="Of the original"),
    Column("metadata", Text, nullable=False, comment="A flat JSON object with sorted names"),
    Column("created_ms", BigInteger, nullable=False, comment="Milliseconds since 1970, UTC"),
    Index("gallery_images_by_id", "id", unique=True),
    Index("gallery_images_by_sha256", "sha256"),
)

# Separate from gallery_images, so that listing images does not read megabytes.
gallery_contents = Table(
    "gallery_contents",
    metadata,
    Column("key", BigInteger, primary_key=True, autoincrement=False),
    Column("original", LargeBinary, nullable=False),
    Column("thumbnail", LargeBinary, nullable=False, comment="JPEG"),
)

gallery_embeddings = Table(
    "gallery_embeddings",
    metadata,
    Column("embedder", String(80), nullable=False),
    Column("key", BigInteger, nullable=False),
    Column("vector", EmbeddingVector, nullable=False, comment="float32, of length 1"),
    PrimaryKeyConstraint("embedder", "key"),
)

# One row per metadata field of an image, so that filters use an index in every database.
gallery_fields = Table(
    "gallery_fields",
    metadata,
    Column("key", BigInteger, nullable=False),
    Column("name", BYTEWISE_255, nullable=False),
    Column("kind", String(1), nullable=False, comment="s(tring), n(umber), b(oolean), 0 for null"),
    Column("text", BYTEWISE, nullable=True, comment="Of a string; true or false"),
    Column("number", Double, nullable=True),
    PrimaryKeyConstraint("key", "name"),
    Index("gallery_fields_by_text", "name", "kind", "text", "key"),
    Index("gallery_fields_by_number", "name", "number", "key"),
)

gallery_tombstones = Table(
    "gallery_tombstones",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("key", BigInteger, nullable=False, comment="Of the image that went with this change"),
)
