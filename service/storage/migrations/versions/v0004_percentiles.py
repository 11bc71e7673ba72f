"""Percentiles of hours and days, so that a latency history is read without decoding histograms."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = ("p50_ns", "p90_ns", "p95_ns", "p99_ns")


def upgrade() -> None:
    """Add the columns. In existing rows they are null; histograms of these rows are decoded as before."""
    for name in _COLUMNS:
        op.add_column(
            "latency_histograms",
            sa.Column(
                name, sa.BigInteger, nullable=True, comment="Of a roll-up; null: only the histogram knows"
            ),
        )


def downgrade() -> None:
    """Drop the columns."""
    for name in _COLUMNS:
        op.drop_column("latency_histograms", name)
