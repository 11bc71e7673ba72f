"""Evaluations: the accuracy of models on labelled pictures, one document per data set."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(16), primary_key=True, comment="Begins the data set's SHA-256"),
        sa.Column("finished_ms", sa.BigInteger, nullable=False, comment="Milliseconds since 1970, UTC"),
        sa.Column("summary", sa.Text, nullable=False, comment="JSON of what a list shows"),
        sa.Column("document", sa.LargeBinary, nullable=False, comment="The evaluation's JSON, zlib"),
        sa.Index("evaluations_by_time", "finished_ms"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("evaluations")
