"""Table of benchmarks: request, outcome and bundle."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "benchmarks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False, comment="Milliseconds since 1970, UTC"),
        sa.Column("alive_ms", sa.BigInteger, nullable=False, comment="When its process was last heard of"),
        sa.Column("finished_ms", sa.BigInteger, nullable=True),
        sa.Column("request", sa.Text, nullable=False, comment="JSON of what was asked"),
        sa.Column("detail", sa.Text, nullable=True, comment="Why it ended as it did, in words"),
        sa.Column("bundle", sa.LargeBinary, nullable=True, comment="The measurement's JSON, zlib"),
        sa.Index("benchmarks_by_time", "created_ms"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("benchmarks")
