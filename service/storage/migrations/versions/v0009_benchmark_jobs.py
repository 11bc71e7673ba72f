"""The machine, progress and cancellation of benchmarks, for all processes that share the database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and allow only one running benchmark per machine.

    In existing rows, the columns are null.
    """
    for column in (
        sa.Column("machine_id", sa.String(32), nullable=True, comment="Running system that it measures"),
        sa.Column("machine", sa.Text, nullable=True, comment="JSON of the machine"),
        sa.Column("progress", sa.Text, nullable=True, comment="JSON of the progress while it runs"),
        sa.Column("cancel_ms", sa.BigInteger, nullable=True, comment="When it was asked to stop"),
    ):
        op.add_column("benchmarks", column)
    running = sa.text("state = 'running'")
    op.create_index(
        "benchmarks_running",
        "benchmarks",
        ["machine_id"],
        unique=True,
        sqlite_where=running,
        postgresql_where=running,
    )


def downgrade() -> None:
    """Drop the columns and the index."""
    op.drop_index("benchmarks_running", "benchmarks")
    for name in ("cancel_ms", "progress", "machine", "machine_id"):
        op.drop_column("benchmarks", name)
