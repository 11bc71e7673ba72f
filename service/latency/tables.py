"""SQLAlchemy tables of latency; `service/storage/migrations` creates them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, PrimaryKeyConstraint, String, Table

from service.storage.database import metadata


def _version_and_runtime() -> tuple[Column[str], Column[str]]:
    return (
        Column("version", String(64), nullable=False, comment="SHA-256 of the model file, empty if unknown"),
        Column("runtime", String(32), nullable=False, comment="What ran the model, empty if unknown"),
    )


# The columns of the key are in the order in which queries select: one resolution and regime, a time range,
# then all series in it. So each query reads one range of the index.
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

latency_pooled = Table(
    "latency_pooled",
    metadata,
    Column("resolution_s", Integer, nullable=False),
    Column("regime", String(16), nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("model", String(64), nullable=False),
    Column("stage", String(16), nullable=False),
    Column(
        "count",
        BigInteger,
        nullable=False,
        comment="Valid while the counts in latency_histograms sum up to it",
    ),
    *(Column(name, BigInteger, nullable=False) for name in ("p50_ns", "p90_ns", "p95_ns", "p99_ns")),
    PrimaryKeyConstraint("resolution_s", "regime", "start", "model", "stage"),
)
"""Pooled percentiles of hours and days.

A model and stage have a row here for an hour or day in which they have several rows in `latency_histograms`,
or one row without percentiles.
"""

latency_instances = Table(
    "latency_instances",
    metadata,
    Column("instance", String(32), primary_key=True),
    Column("machine", String(200), nullable=False, comment="Model name of its CPU, and cores"),
    Column("since", BigInteger, nullable=False, comment="First bucket, seconds since 1970, UTC"),
)
"""The machine of each process that has recorded latencies, by the id of the process (`instance`).

Processes of releases before this table have no row, because their machine is unknown.
"""

latency_progress = Table(
    "latency_progress",
    metadata,
    Column("name", String(32), primary_key=True, comment="minutes_from, hours_from or late_writes"),
    Column("until", BigInteger, nullable=False, comment="Seconds since 1970, UTC; or a number of writes"),
)
