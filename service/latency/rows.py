"""Write, read and delete the rows of the latency tables.

Each process writes rows of its own. The rows of all processes are pooled when they are read. Rows are deleted
after their retention.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, TextClause, bindparam, func, select, text

from service.errors import StorageUnavailable
from service.latency.buckets import (
    DAY_S,
    GRACE_S,
    HOUR_S,
    MINUTE_S,
    Bucket,
    Dropped,
    bucket_of,
    kept_from,
)
from service.latency.histogram import Distribution, HistogramCodec, Summary, summarise
from service.latency.series import Figures, Part, Pooled, Run, Scope, pool, series_key
from service.latency.stages import REGIMES, Regime, Stage
from service.latency.tables import latency_errors, latency_histograms, latency_instances, latency_pooled
from service.storage.database import upsert
from service.storage.errors import DAMAGED

_MAINTENANCE_LOCK = 0x7765_6968  # id of an advisory lock, any number that nothing else uses

_PERCENTILES = ("p50_ns", "p90_ns", "p95_ns", "p99_ns")

# Plain SQL: with ten thousand rows per query, SQLAlchemy's typed rows would take as long as SQLite itself.
_WHERE = " WHERE resolution_s = :resolution_s AND regime = :regime AND start >= :start AND start < :end"
_OF_MODEL = " AND model = :model"
_OF_STAGE = " AND stage = :stage"
_OF_RUNTIME = " AND runtime = :runtime"
_ERROR_OF_RUNTIME = " AND runtime IN (:runtime, '')"
_OF_MACHINE = " AND instance IN (SELECT instance FROM latency_instances WHERE machine = :machine)"
_OF_UNKNOWN_MACHINE = " AND instance NOT IN (SELECT instance FROM latency_instances)"
_TOTALS = "start, instance, model, stage, count, sum_ns, max_ns FROM latency_histograms"
_HISTOGRAMS = "start, instance, model, stage, histogram, count, sum_ns, max_ns FROM latency_histograms"
_SUMS = (
    "start, model, stage, count(*), CAST(sum(count) AS BIGINT), CAST(sum(sum_ns) AS BIGINT), max(max_ns), "
    + ", ".join(f"min({name})" for name in _PERCENTILES)
)
_PER_SERIES = " GROUP BY start, model, stage"
_POOLED = f"start, model, stage, count, {', '.join(_PERCENTILES)}"

_RECORDED = (
    "SELECT DISTINCT model, version, runtime, COALESCE(latency_instances.machine, '') "
    "FROM latency_histograms "
    "LEFT JOIN latency_instances ON latency_instances.instance = latency_histograms.instance "
    "WHERE resolution_s = :day_s AND regime = :regime AND start >= :start"
)
_MACHINES = text("SELECT DISTINCT machine FROM latency_instances")

_LAST_RUNS = text(
    "SELECT version, MAX(start) FROM latency_histograms WHERE resolution_s IN (:hour_s, :day_s) "
    "AND regime = :regime AND start >= :start AND model = :model AND version <> '' GROUP BY version"
)

_FORGET_INSTANCES = text(
    "DELETE FROM latency_instances WHERE since < :before AND instance NOT IN "
    "(SELECT instance FROM latency_histograms WHERE resolution_s = :day_s)"
)

_NOTE = "INSERT INTO latency_progress (name, until) VALUES (:name, :until) ON CONFLICT (name) DO UPDATE SET "
_LATER = (
    "until = CASE WHEN excluded.until > latency_progress.until "
    "THEN excluded.until ELSE latency_progress.until END"
)
_MORE = "until = latency_progress.until + excluded.until"

_NOT_POOLED = text(
    "SELECT parts.resolution_s, parts.regime, parts.start, parts.model, parts.stage FROM ("
    "SELECT resolution_s, regime, start, model, stage, sum(count) AS runs FROM latency_histograms "
    "WHERE resolution_s IN (:hour_s, :day_s) AND regime IN :regimes AND start >= :start "
    "AND start + resolution_s <= :end GROUP BY resolution_s, regime, start, model, stage "
    "HAVING count(*) > 1 OR min(p50_ns) IS NULL) AS parts "
    "LEFT JOIN latency_pooled AS pooled ON pooled.resolution_s = parts.resolution_s "
    "AND pooled.regime = parts.regime AND pooled.start = parts.start AND pooled.model = parts.model "
    "AND pooled.stage = parts.stage WHERE pooled.count IS NULL OR pooled.count <> parts.runs "
    "ORDER BY parts.start DESC, parts.resolution_s, parts.regime, parts.model, parts.stage LIMIT :most"
).bindparams(bindparam("regimes", REGIMES, expanding=True), hour_s=HOUR_S, day_s=DAY_S)

# The condition lists all regimes, because the key begins with resolution and regime: a statement then scans
# only a few ranges of the key.
_PAST = (
    " FROM {table} WHERE resolution_s = {resolution_s} AND regime IN ({regimes}) "
    "AND start < :before_{resolution_s}"
)
_PAST_ROWS = [
    (
        resolution_s,
        _PAST.format(
            table=table.name,
            resolution_s=resolution_s,
            regimes=", ".join(f"'{regime}'" for regime in REGIMES),
        ),
    )
    for resolution_s in (MINUTE_S, HOUR_S, DAY_S)
    for table in (latency_histograms, latency_errors, latency_pooled)
]
_LAST_STARTS = text(
    " UNION ALL ".join(f"SELECT {at} AS place, max(start){past}" for at, (_, past) in enumerate(_PAST_ROWS))
)
_DELETIONS = [text(f"DELETE{past}") for _, past in _PAST_ROWS]
_PROGRESS = text("SELECT name, until FROM latency_progress")

POOL_DAYS = 31
"""Number of past days for which missing pooled percentiles of hours and days are computed."""

POOL_AT_ONCE = 1000
"""Maximum number of series of hours and days whose percentiles are pooled in one hour.

The newest series come first.
"""


def write_parts(connection: Connection, parts: Sequence[Part]) -> None:
    """Write the data of all parts. Rows with the same bucket, process and series are overwritten."""
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
    # Not for minutes, which are only read to be merged.
    return (None,) * len(_PERCENTILES) if bucket.resolution_s == MINUTE_S else distribution.percentiles_ns()


def read_pooled(
    connection: Connection,
    scope: Scope,
    first: Bucket,
    end: int,
    without: Collection[tuple[Bucket, str]] = (),
) -> dict[Bucket, Pooled]:
    """Read and pool the buckets from `first` up to, but not including, `end`; all are as long as `first`.

    `end` is in seconds since 1970. `without`: pairs of a bucket and a process. The rows that the process of a
    pair wrote for the bucket of the pair are skipped. Buckets without rows are absent from the result. Raises
    StorageUnavailable for a histogram that cannot be decoded.
    """
    columns = _TOTALS if scope.totals_only else _HISTOGRAMS
    read: Callable[..., Distribution] = Distribution.totals if scope.totals_only else HistogramCodec().decode
    skipped = {
        (bucket.start, instance) for bucket, instance in without if bucket.resolution_s == first.resolution_s
    }
    distributions: defaultdict[int, list[tuple[str, Stage, Distribution]]] = defaultdict(list)
    errors: defaultdict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for start, instance, model, stage, *figures in _rows(connection, columns, scope, first, end):
        if (start, instance) not in skipped:
            try:
                distributions[start].append((model, stage, read(*figures)))
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
    """Read figures from stored percentiles, for the same buckets as `read_pooled`.

    If a model and stage have only one row in a bucket, their percentiles are in this row, otherwise in
    `latency_pooled`. If percentiles are missing or outdated, the value of the bucket is None, because its
    histograms must be merged.
    """
    pooled: dict[tuple[int, str, Stage], tuple[int, list[int]]] = {}
    if scope.machine is None:  # stored percentiles are pooled over all machines
        of_all = scope._replace(versions=None, runtime=None)
        rows = _rows(connection, f"{_POOLED} FROM latency_pooled", of_all, first, end)
        pooled = {
            (start, model, stage): (count, percentiles) for start, model, stage, count, *percentiles in rows
        }
    summaries: defaultdict[int, dict[tuple[str, Stage], Summary]] = defaultdict(dict)
    unknown: set[int] = set()
    for start, model, stage, parts, *sums in _rows(
        connection, f"{_SUMS} FROM latency_histograms", scope, first, end, _PER_SERIES
    ):
        count, sum_ns, max_ns, *percentiles = sums
        known = summaries[start]  # creates the entry, so that a bucket without known figures is included
        if parts > 1 or percentiles[0] is None:
            pooled_count, percentiles = pooled.get((start, model, stage), (None, percentiles))
            if pooled_count != count:
                unknown.add(start)
                continue
        known[series_key(model, stage)] = summarise(count, sum_ns, max_ns, (*percentiles,))
    errors: defaultdict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for start, _, model, slug, count in _error_rows(connection, scope, first, end):
        errors[start].append((model, slug, count))
    return {
        Bucket(first.resolution_s, start): None
        if start in unknown
        else Figures(summaries[start], pool((), errors[start]).errors)
        for start in summaries.keys() | errors.keys()
    }


@lru_cache(64)
def _text(statement: str) -> TextClause:
    """Return the parsed statement. The same statement is not parsed again."""
    return text(statement)


def _rows(
    connection: Connection, columns: str, scope: Scope, first: Bucket, end: int, group: str = ""
) -> Sequence[Any]:
    of_versions, parameters = _of_versions(scope)
    wanted = (_OF_MODEL if scope.model else "") + (_OF_STAGE if scope.stage else "")
    wanted += of_versions + ("" if scope.runtime is None else _OF_RUNTIME) + _of_machine(scope)
    statement = _text(f"SELECT {columns}{_WHERE}{wanted}{group}")
    return connection.execute(statement, _parameters(scope, first, end) | parameters).all()


def _error_rows(connection: Connection, scope: Scope, first: Bucket, end: int) -> Sequence[Any]:
    columns = "SELECT start, instance, model, slug, count FROM latency_errors"
    of_versions, parameters = _of_versions(scope)
    of_runtime = "" if scope.runtime is None else _ERROR_OF_RUNTIME
    wanted = (_OF_MODEL if scope.model else "") + of_versions + of_runtime + _of_machine(scope)
    statement = _text(columns + _WHERE + wanted)
    return connection.execute(statement, _parameters(scope, first, end) | parameters).all()


def _parameters(scope: Scope, first: Bucket, end: int) -> dict[str, Any]:
    wanted = {
        "regime": scope.regime, "model": scope.model, "stage": scope.stage, "runtime": scope.runtime,
        "machine": scope.machine,
    }  # fmt: skip
    return {**wanted, **first._asdict(), "end": end}


def _of_machine(scope: Scope) -> str:
    """Return the SQL condition that selects the rows of the scope's machine."""
    if scope.machine is None:
        return ""
    return _OF_MACHINE if scope.machine else _OF_UNKNOWN_MACHINE


def _of_versions(scope: Scope) -> tuple[str, dict[str, str]]:
    """Return the SQL condition that selects the rows of the scope's versions, and its parameters."""
    versions = scope.versions
    if versions is None:
        return "", {}
    if versions.prefix:
        return " AND version LIKE :prefix", {"prefix": f"{versions.prefix}%"}
    if scope.model is not None and scope.model not in versions.models:
        return "", {}
    current = {f"version{number}": version for number, version in enumerate(versions.current)}
    condition = "version IN (" + ", ".join(["''", *(f":{name}" for name in current)]) + ")"
    if scope.model is not None:
        return f" AND {condition}", current
    models = {f"model{number}": model for number, model in enumerate(versions.models)}
    if not models:
        return "", {}
    others = ", ".join(f":{name}" for name in models)
    return f" AND ({condition} OR model NOT IN ({others}))", current | models


def read_recorded(connection: Connection, regime: Regime, start: int, model: str | None) -> set[Run]:
    """Return the models, versions, runtimes and machines with runs since the day that begins at `start`."""
    statement = text(_RECORDED + (_OF_MODEL if model else ""))
    wanted = {"regime": regime, "start": start, "model": model, "day_s": DAY_S}
    return {Run(*row) for row in connection.execute(statement, wanted)}


def read_machines(connection: Connection) -> set[str]:
    """Return the machines of all processes that have rows, or that started in the last year."""
    return {str(row[0]) for row in connection.execute(_MACHINES)}


def read_last_runs(connection: Connection, regime: Regime, start: int, model: str) -> dict[str, int]:
    """Return, by version, when the last hour with runs begins. Runs before the day `start` are ignored.

    If the hours of the last day with runs are no longer kept, return when that last day begins instead.
    """
    wanted = {"regime": regime, "start": start, "model": model, "hour_s": HOUR_S, "day_s": DAY_S}
    return {row[0]: int(row[1]) for row in connection.execute(_LAST_RUNS, wanted)}


def note_instances(connection: Connection, starts: Mapping[str, int], machine: str) -> None:
    """Store that the processes whose ids are the keys of `starts` run on `machine`.

    The value of each process in `starts` is the start of a bucket that it has written.
    """
    rows = [{"instance": name, "machine": machine, "since": start} for name, start in starts.items()]
    upsert(connection, latency_instances, rows)


def read_progress(connection: Connection) -> tuple[Dropped, int]:
    """Return the times before which rows are dropped, and the number of late writes.

    A late write is a write to a closed bucket.
    """
    rows = connection.execute(_PROGRESS).all()
    until: dict[str, int] = dict(rows)  # other names are from replicas of an older version
    return Dropped(until.get("minutes_from", 0), until.get("hours_from", 0)), until.get("late_writes", 0)


def note_dropped(connection: Connection, dropped: Dropped) -> None:
    """Store the times before which rows are dropped, unless later times are stored already."""
    rows = [{"name": name, "until": until} for name, until in dropped._asdict().items()]
    connection.execute(text(_NOTE + _LATER), rows)


def note_late_write(connection: Connection) -> None:
    """Count a write to a closed bucket. All processes then discard the buckets that they have cached."""
    connection.execute(text(_NOTE + _MORE), {"name": "late_writes", "until": 1})


def pool_percentiles(connection: Connection, now: float) -> list[dict[str, Any]]:
    """Compute missing rows of `latency_pooled` for closed hours and days, at most POOL_AT_ONCE of them."""
    parameters = {"start": int(now) - POOL_DAYS * DAY_S, "end": int(now) - GRACE_S, "most": POOL_AT_ONCE}
    missing = connection.execute(_NOT_POOLED, parameters).all()
    rows = []
    for (resolution_s, regime, start), series in groupby(missing, lambda row: row[:3]):
        bucket = Bucket(resolution_s, start)
        try:
            pooled = read_pooled(connection, Scope(regime), bucket, bucket.end)[bucket]
        except StorageUnavailable:
            continue  # a damaged histogram; only queries that read it report it
        for *_, model, stage in series:
            distribution = pooled.distributions[model, stage]
            percentiles = dict(zip(_PERCENTILES, distribution.percentiles_ns(), strict=True))
            key = {**bucket._asdict(), "regime": regime, "model": model, "stage": stage}
            rows.append({**key, "count": distribution.count, **percentiles})
    return rows


def maintain(connection: Connection, now: float, pooled: Sequence[dict[str, Any]]) -> None:
    """Write pooled percentiles, delete rows that are too old, and store before which times rows are gone."""
    if connection.dialect.name == "postgresql":  # in SQLite, write transactions are exclusive
        connection.execute(select(func.pg_advisory_xact_lock(_MAINTENANCE_LOCK)))
    upsert(connection, latency_pooled, pooled)
    last = _drop(connection, now)
    connection.execute(_FORGET_INSTANCES, {"before": kept_from(DAY_S, now), "day_s": DAY_S})
    # Note the times of the last deleted rows, not times computed from `now`: if the clock is a year ahead,
    # the rows of the coming year must not count as dropped.
    minutes_from, hours_from = bucket_of(HOUR_S, last[MINUTE_S]).end, bucket_of(DAY_S, last[HOUR_S]).end
    note_dropped(connection, Dropped(max(0, minutes_from), max(0, hours_from)))


def _drop(connection: Connection, now: float) -> dict[int, int]:
    """Delete the rows past their retention.

    Return, by resolution, the latest start of the deleted rows. It is -DAY_S if no row was deleted.
    """
    last = dict.fromkeys((MINUTE_S, HOUR_S, DAY_S), -DAY_S)
    before = {f"before_{resolution_s}": kept_from(resolution_s, now) for resolution_s in last}
    for place, start in connection.execute(_LAST_STARTS, before).all():
        if start is not None:
            resolution_s, _ = _PAST_ROWS[place]
            name = f"before_{resolution_s}"
            connection.execute(_DELETIONS[place], {name: before[name]})
            last[resolution_s] = max(last[resolution_s], start)
    return last
