"""Latencies by model version and runtime, and hours and days for each process.

The percentiles of all processes together get a table of their own.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import sqlalchemy as sa
from alembic import op
from hdrh.histogram import HdrHistogram

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
_TABLES = ("latency_histograms", "latency_errors")
_COMMENTS = {
    "instance": "Process that recorded it; empty: all processes, of older versions",
    **dict.fromkeys(("p50_ns", "p90_ns", "p95_ns", "p99_ns"), "Null: only the histogram knows"),
}


def upgrade() -> None:
    """Complete the sums over hours and days, then add the columns.

    An instance is a process that recorded latencies. Existing sums stay; their empty instance means all
    processes. After this migration, every process writes its own hours and days, so the earlier sums must be
    complete.
    """
    connection = op.get_bind()
    rows = connection.execute(sa.text("SELECT name, until FROM latency_progress")).all()
    progress: dict[str, int] = dict(rows)
    _sum_up(connection, _MINUTE_S, _HOUR_S, progress.get("hours_until", 0))
    _sum_up(connection, _HOUR_S, _DAY_S, progress.get("days_until", 0))
    op.execute("DELETE FROM latency_progress WHERE name IN ('hours_until', 'days_until')")
    if connection.dialect.name == "postgresql":
        for table in _TABLES:
            for column in _version_and_runtime(server_default=""):
                op.add_column(table, column)
                op.alter_column(table, column.name, server_default=None)
            op.drop_constraint(f"{table}_pkey", table)
            op.create_primary_key(f"{table}_pkey", table, _key(table, new=True))
        for name, comment in _COMMENTS.items():
            op.alter_column("latency_histograms", name, comment=comment)
        op.alter_column("latency_progress", "name", comment="minutes_from, hours_from or late_writes")
        op.alter_column("latency_progress", "until", comment="Seconds since 1970, UTC; or a number of writes")
    else:
        for table in _TABLES:
            _copy(table, new=True)
    op.create_table(
        "latency_pooled",
        sa.Column("resolution_s", sa.Integer, nullable=False),
        sa.Column("regime", sa.String(16), nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column(
            "count",
            sa.BigInteger,
            nullable=False,
            comment="Valid while the counts in latency_histograms sum up to it",
        ),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("p50_ns", "p90_ns", "p95_ns", "p99_ns")
        ),
        sa.PrimaryKeyConstraint("resolution_s", "regime", "start", "model", "stage"),
    )


def _sum_up(connection: sa.Connection, part_s: int, whole_s: int, since: int) -> None:
    """Write rows for longer periods, from rows for shorter periods that start at `since` or later.

    `whole_s`: seconds of the longer period. `part_s`: seconds of the shorter period. The new rows have an
    empty instance, which means all processes.
    """
    rows = connection.execute(
        sa.text(
            "SELECT start, regime, model, stage, count AS runs, sum_ns, max_ns, histogram "
            f"FROM latency_histograms WHERE resolution_s = {part_s} AND start >= {since}"
        )
    ).all()

    def whole(row: Any) -> tuple[int, str, str, str]:
        return row.start // whole_s * whole_s, row.regime, row.model, row.stage

    for (start, regime, model, stage), group in groupby(sorted(rows, key=whole), whole):
        parts = list(group)
        merged = HdrHistogram(1, 2**26 - 1, 3, b64_wrap=False)
        for part in parts:
            merged.add(HdrHistogram.decode(part.histogram, b64_wrap=False))
        connection.execute(
            sa.text(
                "INSERT INTO latency_histograms "
                "(resolution_s, regime, start, model, stage, instance, count, sum_ns, max_ns, histogram) "
                f"VALUES ({whole_s}, :regime, :start, :model, :stage, '', "
                ":count, :sum_ns, :max_ns, :histogram)"
            ),
            {
                "regime": regime,
                "start": start,
                "model": model,
                "stage": stage,
                "count": sum(part.runs for part in parts),
                "sum_ns": sum(part.sum_ns for part in parts),
                "max_ns": max(part.max_ns for part in parts),
                "histogram": merged.encode(),
            },
        )
    connection.execute(
        sa.text(
            "INSERT INTO latency_errors (resolution_s, regime, start, model, slug, instance, count) "
            f"SELECT {whole_s}, regime, start - start % {whole_s}, model, slug, '', sum(count) "
            f"FROM latency_errors WHERE resolution_s = {part_s} AND start >= {since} "
            f"GROUP BY regime, start - start % {whole_s}, model, slug"
        )
    )


def _version_and_runtime(server_default: str | None = None) -> tuple[sa.Column[str], sa.Column[str]]:
    return (
        sa.Column(
            "version",
            sa.String(64),
            nullable=False,
            server_default=server_default,
            comment="SHA-256 of the model file, empty if unknown",
        ),
        sa.Column(
            "runtime",
            sa.String(32),
            nullable=False,
            server_default=server_default,
            comment="What ran the model, empty if unknown",
        ),
    )


def _key(table: str, *, new: bool) -> list[str]:
    added = ("version", "runtime") if new else ()
    kind = "stage" if table == "latency_histograms" else "slug"
    return ["resolution_s", "regime", "start", "model", *added, kind, "instance"]


def _copy(table: str, *, new: bool) -> None:
    """Change the primary key of an SQLite table, which is only possible by copying the table.

    `new`: whether the key is to contain version and runtime.
    """
    before = sa.Table(table, sa.MetaData(), autoload_with=op.get_bind())
    kept = [
        sa.Column(column.name, column.type, nullable=column.nullable)
        for column in before.c
        if column.name not in ("version", "runtime")
    ]
    op.create_table(
        f"{table}_copy",
        *kept[:4],
        *(_version_and_runtime() if new else ()),
        *kept[4:],
        sa.PrimaryKeyConstraint(*_key(table, new=new)),
    )
    names = ", ".join(column.name for column in kept)
    into, values = (f"{names}, version, runtime", f"{names}, '', ''") if new else (names, names)
    op.execute(f"INSERT INTO {table}_copy ({into}) SELECT {values} FROM {table}")
    op.drop_table(table)
    op.rename_table(f"{table}_copy", table)


def downgrade() -> None:
    """Drop the columns, and all rows with a version or runtime, which the old key cannot distinguish.

    Nothing calls this function. After a downgrade, the previous version would add the rows of single
    processes to its own sums.
    """
    connection = op.get_bind()
    op.drop_table("latency_pooled")
    for table in _TABLES:
        op.execute(f"DELETE FROM {table} WHERE version <> '' OR runtime <> ''")
        if connection.dialect.name == "postgresql":
            op.drop_constraint(f"{table}_pkey", table)
            op.create_primary_key(f"{table}_pkey", table, _key(table, new=False))
            op.drop_column(table, "version")
            op.drop_column(table, "runtime")
        else:
            _copy(table, new=False)
