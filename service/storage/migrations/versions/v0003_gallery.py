"""Tables of the gallery: images, their bytes, embeddings and metadata, and deletions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import VECTOR

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_VECTOR = sa.LargeBinary().with_variant(VECTOR(), "postgresql")
_BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_BYTEWISE_255 = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables, and the only row of gallery_state."""
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    if on_postgresql:
        op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    state = op.create_table(
        "gallery_state",
        sa.Column("name", sa.String(16), primary_key=True, comment="There is one row, named gallery"),
        sa.Column(
            "embedder",
            sa.String(80),
            nullable=True,
            comment="The network that answers: model@start of sha256",
        ),
        sa.Column(
            "target", sa.String(80), nullable=True, comment="The one that all images are being embedded with"
        ),
        sa.Column("sequence", sa.BigInteger, nullable=False, comment="Number of the last change"),
        sa.Column(
            "revision", sa.BigInteger, nullable=False, comment="Grows with every write, of metadata too"
        ),
        sa.Column("images", sa.BigInteger, nullable=False, comment="How many there are"),
        sa.Column("bytes", sa.BigInteger, nullable=False, comment="Of all originals together"),
    )
    op.bulk_insert(state, [{"name": "gallery", "sequence": 0, "revision": 0, "images": 0, "bytes": 0}])
    op.create_table(
        "gallery_images",
        sa.Column("key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", _BYTEWISE_255, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False, comment="Of the original bytes"),
        sa.Column("perceptual_hash", sa.BigInteger, nullable=False, comment="64 bits, as a signed number"),
        sa.Column("format", sa.String(8), nullable=False),
        sa.Column("width", sa.Integer, nullable=False, comment="Pixels, upright"),
        sa.Column("height", sa.Integer, nullable=False, comment="Pixels, upright"),
        sa.Column("bytes", sa.BigInteger, nullable=False, comment="Of the original"),
        sa.Column("metadata", sa.Text, nullable=False, comment="A flat JSON object with sorted names"),
        sa.Column("created_ms", sa.BigInteger, nullable=False, comment="Milliseconds since 1970, UTC"),
        sa.Index("gallery_images_by_id", "id", unique=True),
        sa.Index("gallery_images_by_sha256", "sha256"),
    )
    op.create_table(
        "gallery_contents",
        sa.Column("key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("original", sa.LargeBinary, nullable=False),
        sa.Column("thumbnail", sa.LargeBinary, nullable=False, comment="JPEG"),
    )
    if on_postgresql:  # image files are already compressed
        for column in ("original", "thumbnail"):
            op.execute(f"ALTER TABLE gallery_contents ALTER COLUMN {column} SET STORAGE EXTERNAL")
    op.create_table(
        "gallery_embeddings",
        sa.Column("embedder", sa.String(80), nullable=False),
        sa.Column("key", sa.BigInteger, nullable=False),
        sa.Column("vector", _VECTOR, nullable=False, comment="float32, of length 1"),
        sa.PrimaryKeyConstraint("embedder", "key"),
    )
    op.create_table(
        "gallery_fields",
        sa.Column("key", sa.BigInteger, nullable=False),
        sa.Column("name", _BYTEWISE_255, nullable=False),
        sa.Column("kind", sa.String(1), nullable=False, comment="s(tring), n(umber), b(oolean), 0 for null"),
        sa.Column("text", _BYTEWISE, nullable=True, comment="Of a string; true or false"),
        sa.Column("number", sa.Double, nullable=True),
        sa.PrimaryKeyConstraint("key", "name"),
        sa.Index("gallery_fields_by_text", "name", "kind", "text", "key"),
        sa.Index("gallery_fields_by_number", "name", "number", "key"),
    )
    op.create_table(
        "gallery_tombstones",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key", sa.BigInteger, nullable=False, comment="Of the image that went with this change"),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("tombstones", "fields", "embeddings", "contents", "images", "state"):
        op.drop_table(f"gallery_{table}")
