"""Models that replicas share: added, replaced and deleted models, and the runtimes chosen for models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables. In SQLite, they stay empty."""
    op.create_table(
        "shared_models",
        sa.Column(
            "kind", sa.String(8), nullable=False, comment="model, copy (of the gallery's network), runtime"
        ),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column(
            "sequence", sa.BigInteger, nullable=False, comment="Number of its last change, in commit order"
        ),
        sa.Column(
            "digest", sa.String(64), nullable=True, comment="Of names and SHA-256 of the files; null: deleted"
        ),
        sa.Column("detail", sa.Text, nullable=True, comment="Of a runtime: the choice as JSON; null: none"),
        sa.Column("stored_ms", sa.BigInteger, nullable=False, comment="Milliseconds since 1970, UTC"),
        sa.PrimaryKeyConstraint("kind", "name"),
        sa.Index("shared_models_by_sequence", "sequence", unique=True),
    )
    op.create_table(
        "shared_model_files",
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("file", sa.String(255), nullable=False, comment="Its name in the model's folder"),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", "file"),
        sa.Index("shared_model_files_by_sha256", "sha256"),
    )
    op.create_table(
        "shared_model_chunks",
        sa.Column("sha256", sa.String(64), nullable=False, comment="Of the whole file"),
        sa.Column("number", sa.Integer, nullable=False, comment="From 0"),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("sha256", "number"),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("shared_model_chunks", "shared_model_files", "shared_models"):
        op.drop_table(table)
