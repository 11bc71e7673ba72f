"""Rows of the latency tables: written per process instance, read back pooled, and dropped in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, func, select, text

from service.errors import StorageUnavailable
from service.latency.buckets import (
    DAY_S,
    HOUR_S,
    MINUTE_S,
    Bucket,
    Dropped,
    bucket_of,
    kept_from,
)
from service.latency.histogram import Distribution, HistogramCodec, Summary, summarise
from service.latency.series import Figures, Part, Pooled, Scope, pool
from service.latency.stages import REGIMES, Stage
from service.latency.tables import latency_errors, latency_histograms, latency_progress
from service.storage.database import upsert
from service.storage.errors import DAMAGED

_DROP_LOCK = 0x7765_6968  # any number that nothing else in that PostgreSQL takes

_PERCENTILES = ("p50_ns", "p90_ns", "p95_ns", "p99_ns")

# Written out: at ten thousand rows an answer, SQLAlchemy's typed rows would cost as much as SQLite.
_WHERE = " WHERE resolution_s = :resolution_s AND regime = :regime AND start >= :start AND start < :end"
_OF_MODEL = " AND model = :model"
_OF_STAGE = " AND stage = :stage"
_HISTOGRAMS = "start, instance, model, stage, histogram, count, sum_ns, max_ns"
_SUMMARIES = f"start, model, stage, count, sum_ns, max_ns, {', '.join(_PERCENTILES)}"


def write_parts(connection: Connection, parts: Sequence[Part]) -> None:
    """Write all series given, over those of the same bucket and instance."""
    codec = HistogramCodec()
    upsert(
        connection,
        latency_histograms,
        [
            {
                **part.bucket._asdict(),
                "instance": part.instance,
                **series._asdict(),
                "count": distribution.count,
                "sum_ns": distribution.sum_ns,
                "max_ns": distribution.max_ns,
                "histogram": codec.encode(distribution),
                **dict(zip(_PERCENTILES, _stored_percentiles(part.bucket, distribution), strict=True)),
            }
            for part in parts
            for series, distribution in part.distributions.items()
        ],
    )
    upsert(
        connection,
        latency_errors,
        [
            {**part.bucket._asdict(), "instance": part.instance, **series._asdict(), "count": count}
            for part in parts
            for series, count in part.errors.items()
        ],
    )


def _stored_percentiles(bucket: Bucket, distribution: Distribution) -> tuple[int | None, ...]:
    # Minutes are read to be merged: not worth it.
    return (None,) * len(_PERCENTILES) if bucket.resolution_s == MINUTE_S else distribution.percentiles_ns()


def read_pooled(
    connection: Connection,
    scope: Scope,
    first: Bucket,
    end: int,
    without: Collection[tuple[Bucket, str]] = (),
) -> dict[Bucket, Pooled]:
    """What is kept in the buckets as long as `first`, from `first` to before `end` (seconds), without the
    rows of these buckets and instances. Buckets without rows are absent.

    Raises StorageUnavailable for a histogram that cannot be decoded.
    """
    codec = HistogramCodec()
    skipped = {
        (bucket.start, instance) for bucket, instance in without if bucket.resolution_s == first.resolution_s
    }
    distributions: defaultdict[int, list[tuple[str, Stage, Distribution]]] = defaultdict(list)
    errors: defaultdict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for start, instance, model, stage, *encoded in _rows(connection, _HISTOGRAMS, scope, first, end):
        if (start, instance) not in skipped:
            try:
                distributions[start].append((model, stage, codec.decode(*encoded)))
            except ValueError as error:
                raise StorageUnavailable(DAMAGED) from error
    for start, instance, *error_count in _error_rows(connection, scope, first, end):
        if (start, instance) not in skipped:
            errors[start].append((error_count[0], error_count[1], error_count[2]))
    return {
        Bucket(first.resolution_s, start): pool(distributions[start], errors[start])
        for start in sorted(distributions.keys() | errors.keys())
    }


def read_figures(
    connection: Connection, scope: Scope, first: Bucket, end: int
) -> dict[Bucket, Figures | None]:
    """The figures of the same buckets from the percentiles that are kept beside the histograms.

    None where histograms have to be merged: a row without percentiles, or several of one model and stage.
    """
    summaries: defaultdict[int, dict[tuple[str, Stage], Summary]] = defaultdict(dict)
    unknown: set[int] = set()
    for start, model, stage, *exact in _rows(connection, _SUMMARIES, scope, first, end):
        count, sum_ns, max_ns, p50, p90, p95, p99 = exact
        known = summaries[start]  # made here, so that a bucket without known figures is in the answer
        if p50 is None or (model, stage) in known:
            unknown.add(start)
        else:
            known[model, stage] = summarise(count, sum_ns, max_ns, (p50, p90, p95, p99))
    errors: defaultdict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for start, _, model, slug, count in _error_rows(connection, scope, first, end):
        errors[start].append((model, slug, count))
    return {
        Bucket(first.resolution_s, start): None
        if start in unknown
        else Figures(summaries[start], pool((), errors[start]).errors)
        for start in summaries.keys() | errors.keys()
    }


def _rows(connection: Connection, columns: str, scope: Scope, first: Bucket, end: int) -> Sequence[Any]:
    wanted = (_OF_MODEL if scope.model else "") + (_OF_STAGE if scope.stage else "")
    statement = text(f"SELECT {columns} FROM latency_histograms" + _WHERE + wanted)
    return connection.execute(statement, {**scope._asdict(), **first._asdict(), "end": end}).all()


def _error_rows(connection: Connection, scope: Scope, first: Bucket, end: int) -> Sequence[Any]:
    columns = "SELECT start, instance, model, slug, count FROM latency_errors"
    statement = text(columns + _WHERE + (_OF_MODEL if scope.model else ""))
    return connection.execute(statement, {**scope._asdict(), **first._asdict(), "end": end}).all()


def read_dropped(connection: Connection) -> Dropped:
    """What of the past is kept only by hours, or only by days."""
    statement = select(latency_progress.c.name, latency_progress.c.until)
    rows = connection.execute(statement).all()
    until: dict[str, int] = dict(rows)
    # Other names are those of replicas that still run an older version.
    return Dropped(**{name: until[name] for name in Dropped._fields if name in until})


def drop_old(connection: Connection, now: float) -> None:
    """Drop the rows that were kept long enough, and note which."""
    if connection.dialect.name == "postgresql":  # in SQLite the transaction itself waited for its turn
        connection.execute(select(func.pg_advisory_xact_lock(_DROP_LOCK)))
    dropped = read_dropped(connection)
    last_minute = _drop(connection, MINUTE_S, now)
    last_hour = _drop(connection, HOUR_S, now)
    _drop(connection, DAY_S, now)
    # Not up to `now`: a clock that was a year ahead for a moment must not spoil that year.
    after = Dropped(
        max(dropped.minutes_from, bucket_of(HOUR_S, last_minute).end),
        max(dropped.hours_from, bucket_of(DAY_S, last_hour).end),
    )
    upsert(
        connection,
        latency_progress,
        [{"name": name, "until": until} for name, until in after._asdict().items()],
    )


def _drop(connection: Connection, resolution_s: int, now: float) -> int:
    """Delete old rows of that resolution; the start of the last one, -DAY_S without any."""
    before = kept_from(resolution_s, now)
    last = -DAY_S
    for table in (latency_histograms, latency_errors):
        # All regimes, by name: the key begins with resolution and regime, so this is a few ranges of it.
        matches = and_(
            table.c.resolution_s == resolution_s, table.c.regime.in_(REGIMES), table.c.start < before
        )
        last = max(last, connection.execute(select(func.max(table.c.start)).where(matches)).scalar() or last)
        connection.execute(delete(table).where(matches))
    return last
