"""Latencies and errors by minute, hour and day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "latency_histograms",
        sa.Column(
            "resolution_s", sa.Integer, nullable=False, comment="Length of the bucket: 60, 3600 or 86400"
        ),
        sa.Column("regime", sa.String(16), nullable=False),
        sa.Column(
            "start", sa.BigInteger, nullable=False, comment="First second of the bucket since 1970, UTC"
        ),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column(
            "instance", sa.String(32), nullable=False, comment="Process that recorded it; empty for a roll-up"
        ),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("sum_ns", sa.BigInteger, nullable=False),
        sa.Column("max_ns", sa.BigInteger, nullable=False),
        sa.Column(
            "histogram",
            sa.LargeBinary,
            nullable=False,
            comment="HDR histogram of microseconds, V2, compressed",
        ),
        sa.PrimaryKeyConstraint("resolution_s", "regime", "start", "model", "stage", "instance"),
    )
    op.create_table(
        "latency_errors",
        sa.Column("resolution_s", sa.Integer, nullable=False),
        sa.Column("regime", sa.String(16), nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column(
            "model",
            sa.String(64),
            nullable=False,
            comment="Empty when the request failed before one was known",
        ),
        sa.Column("slug", sa.String(64), nullable=False, comment="Kind of the error"),
        sa.Column("instance", sa.String(32), nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("resolution_s", "regime", "start", "model", "slug", "instance"),
    )
    op.create_table(
        "latency_progress",
        sa.Column(
            "name", sa.String(32), primary_key=True, comment="A field of service.storage.rollup.Progress"
        ),
        sa.Column("until", sa.BigInteger, nullable=False, comment="Seconds since 1970, UTC"),
    )


def downgrade() -> None:
    """Drop the first tables."""
    op.drop_table("latency_progress")
    op.drop_table("latency_errors")
    op.drop_table("latency_histograms")
