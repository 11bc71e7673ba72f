"""The machines of the processes that recorded latencies.

Responses name the machines whose latencies they pool.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table. It does not list processes of earlier releases."""
    op.create_table(
        "latency_instances",
        sa.Column("instance", sa.String(32), primary_key=True),
        sa.Column("machine", sa.String(200), nullable=False, comment="Model name of its CPU, and cores"),
        sa.Column("since", sa.BigInteger, nullable=False, comment="First bucket, seconds since 1970, UTC"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("latency_instances")
