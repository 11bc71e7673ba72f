"""The tables as SQLAlchemy sees them; `migrations` makes them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

from service.storage.vector_type import EmbeddingVector

metadata = MetaData()

BYTEWISE = Text().with_variant(Text(collation="C"), "postgresql")
BYTEWISE_255 = String(255).with_variant(String(255, collation="C"), "postgresql")
"""Compared byte by byte, as SQLite does anyway: an order of ids and strings that is the same everywhere."""


def _version_and_runtime() -> tuple[Column[str], Column[str]]:
    return (
        Column("version", String(64), nullable=False, comment="SHA-256 of the model file, empty if unknown"),
        Column("runtime", String(32), nullable=False, comment="What ran the model, empty if unknown"),
    )


# The key's order is that of the questions: one resolution and regime, a range of time, then all series of it.
# A day in a range of 30 is then one stretch of the index.
latency_histograms = Table(
    "latency_histograms",
    metadata,
    Column("resolution_s", Integer, nullable=False, comment="Length of the bucket: 60, 3600 or 86400"),
    Column("regime", String(16), nullable=False),
    Column("start", BigInteger, nullable=False, comment="First second of the bucket since 1970, UTC"),
    Column("model", String(64), nullable=False),
    *_version_and_runtime(),
    Column("stage", String(16), nullable=False),
    Column(
        "instance",
        String(32),
        nullable=False,
        comment="Process that recorded it; empty: all processes, of older versions",
    ),
    Column("count", BigInteger, nullable=False),
    Column("sum_ns", BigInteger, nullable=False),
    Column("max_ns", BigInteger, nullable=False),
    Column("histogram", LargeBinary, nullable=False, comment="HDR histogram of microseconds, V2, compressed"),
    *(
        Column(name, BigInteger, nullable=True, comment="Null: only the histogram knows")
        for name in ("p50_ns", "p90_ns", "p95_ns", "p99_ns")
    ),
    PrimaryKeyConstraint(
        "resolution_s", "regime", "start", "model", "version", "runtime", "stage", "instance"
    ),
)

latency_errors = Table(
    "latency_errors",
    metadata,
    Column("resolution_s", Integer, nullable=False),
    Column("regime", String(16), nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("model", String(64), nullable=False, comment="Empty when the request failed before one was known"),
    *_version_and_runtime(),
    Column("slug", String(64), nullable=False, comment="Kind of the error"),
    Column("instance", String(32), nullable=False),
    Column("count", BigInteger, nullable=False),
    PrimaryKeyConstraint(
        "resolution_s", "regime", "start", "model", "version", "runtime", "slug", "instance"
    ),
)

latency_progress = Table(
    "latency_progress",
    metadata,
    Column("name", String(32), primary_key=True, comment="A field of service.latency.buckets.Dropped"),
    Column("until", BigInteger, nullable=False, comment="Seconds since 1970, UTC"),
)

benchmarks = Table(
    "benchmarks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("created_ms", BigInteger, nullable=False, comment="Milliseconds since 1970, UTC"),
    Column("alive_ms", BigInteger, nullable=False, comment="When its process was last heard of"),
    Column("finished_ms", BigInteger, nullable=True),
    Column("request", Text, nullable=False, comment="JSON of what was asked"),
    Column("detail", Text, nullable=True, comment="Why it ended as it did, in words"),
    Column("bundle", LargeBinary, nullable=True, comment="The measurement's JSON, zlib"),
    Index("benchmarks_by_time", "created_ms"),
)

# The truth of a gallery. `key` is the number of the change that put an image there; new bytes under an old id
# get a new key, and no number is given twice, so a vector index can be told what it has not seen yet.
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

# Apart from the facts, so that a list of images does not read past megabytes.
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

# One row per field of an image's metadata: what `where` asks, with an index, in any database.
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
