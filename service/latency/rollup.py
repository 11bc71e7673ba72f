"""Minutes become hours, hours become days, and what has become something coarser is dropped in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, select

from service.latency.histogram import Distribution, merge
from service.latency.recorded import (
    DAY_S,
    HOUR_S,
    MERGED,
    MINUTE_S,
    Bucket,
    ErrorSeries,
    Recorded,
    Scope,
    Series,
    bucket_of,
)
from service.latency.rows import read_rows, upsert, write_rows
from service.latency.stages import REGIMES
from service.storage.tables import latency_errors, latency_histograms, latency_progress

KEEP_MINUTES_S = 48 * HOUR_S
KEEP_HOURS_S = 7 * DAY_S
KEEP_DAYS_S = 366 * DAY_S

_TABLES = (latency_histograms, latency_errors)
_PROGRESS_LOCK = 0x7765_6968  # any number that nothing else in that PostgreSQL takes


@dataclass(frozen=True, slots=True)
class Progress:
    """How far rolling up and dropping have come, in seconds since 1970.

    All rows of minutes before `hours_until` are summed up in rows of hours, all of hours before `days_until`
    in rows of days. Before `minutes_from` there may be rows of hours whose minutes are dropped, before
    `hours_from` rows of days whose hours are.
    """

    hours_until: int = 0
    days_until: int = 0
    minutes_from: int = 0
    hours_from: int = 0

    def behind(self, closed_until: float) -> bool:
        """Whether an hour or a day that is not summed up ended before `closed_until`."""
        return closed_until >= min(self.hours_until + HOUR_S, self.days_until + DAY_S)

    def bucket_for(self, moment: float) -> Bucket:
        """Where to record at that moment: in a minute, unless the sum that it belongs to can no longer be
        made anew, which only a clock that was set back far leads to."""
        if moment >= max(self.minutes_from, self.hours_from):
            return bucket_of(MINUTE_S, moment)
        return bucket_of(HOUR_S if moment >= self.hours_from else DAY_S, moment)


def read_progress(connection: Connection, *, for_update: bool = False) -> Progress:
    """The progress that the database holds. `for_update` makes other instances wait for this transaction."""
    if for_update and connection.dialect.name == "postgresql":  # in SQLite the transaction itself waited
        # Not FOR UPDATE: in a new database there is no row that could be locked.
        connection.execute(select(func.pg_advisory_xact_lock(_PROGRESS_LOCK)))
    statement = select(latency_progress.c.name, latency_progress.c.until)
    return Progress(**dict(connection.execute(statement).all()))


def reopen(connection: Connection, progress: Progress, written: Iterable[Bucket]) -> Progress:
    """Take back the sums that buckets about to be written ought to be part of; they are made anew later.

    What they are sums of is all still there, because `Progress.bucket_for` saw to it.
    """
    hours_until, days_until = progress.hours_until, progress.days_until
    for bucket in written:
        if bucket.resolution_s == MINUTE_S:
            hours_until = min(hours_until, bucket_of(HOUR_S, bucket.start).start)
        if bucket.resolution_s != DAY_S:
            days_until = min(days_until, bucket_of(DAY_S, bucket.start).start)
    reopened = replace(progress, hours_until=hours_until, days_until=days_until)
    if reopened != progress:
        for resolution_s, until in ((HOUR_S, hours_until), (DAY_S, days_until)):
            for table in _TABLES:
                matches = and_(
                    _range(table, resolution_s), table.c.start >= until, table.c.instance == MERGED
                )
                connection.execute(delete(table).where(matches))
        _write_progress(connection, reopened)
    return reopened


def roll_up(connection: Connection, closed_until: float) -> Progress:
    """Sum up the next hour or day that ended before `closed_until`, skipping those without rows."""
    progress = read_progress(connection, for_update=True)
    hour = _next(connection, MINUTE_S, bucket_of(HOUR_S, closed_until), progress.hours_until)
    # A day is summed up only when all its hours are, so none that holds `hour`.
    day = _next(connection, HOUR_S, bucket_of(DAY_S, closed_until), progress.days_until)
    if hour.end <= closed_until:
        _sum(connection, MINUTE_S, hour)
        progress = replace(progress, hours_until=hour.end)
    elif day.end <= hour.start:
        _sum(connection, HOUR_S, day)
        progress = replace(progress, hours_until=hour.start, days_until=day.end)
    else:
        progress = replace(progress, hours_until=hour.start, days_until=day.start)
    _write_progress(connection, progress)
    return progress


def drop_old(connection: Connection, now: float) -> Progress:
    """Drop the rows that were kept long enough; of minutes and hours only those that a sum holds."""
    progress = read_progress(connection, for_update=True)
    minutes_before = min(bucket_of(HOUR_S, now - KEEP_MINUTES_S).start, progress.hours_until)
    hours_before = min(bucket_of(DAY_S, now - KEEP_HOURS_S).start, progress.days_until)
    last_minute = _drop(connection, MINUTE_S, minutes_before)
    last_hour = _drop(connection, HOUR_S, hours_before)
    _drop(connection, DAY_S, bucket_of(DAY_S, now - KEEP_DAYS_S).start)
    # Not `minutes_before`: a clock that was a year ahead for a moment must not spoil that year.
    if last_minute is not None:
        progress = replace(
            progress, minutes_from=max(progress.minutes_from, bucket_of(HOUR_S, last_minute).end)
        )
    if last_hour is not None:
        progress = replace(progress, hours_from=max(progress.hours_from, bucket_of(DAY_S, last_hour).end))
    _write_progress(connection, progress)
    return progress


def _next(connection: Connection, part_s: int, last: Bucket, done_until: int) -> Bucket:
    """The first bucket as long as `last`, from `done_until` on, that has rows of `part_s`; at most `last`."""
    earliest = [
        connection.execute(
            select(func.min(table.c.start)).where(
                table.c.resolution_s == part_s, table.c.regime == regime, table.c.start >= done_until
            )
        ).scalar()
        for table in _TABLES
        for regime in REGIMES
    ]
    start = min((start for start in earliest if start is not None), default=last.start)
    return min(bucket_of(last.resolution_s, start), last)


def _sum(connection: Connection, part_s: int, whole: Bucket) -> None:
    for regime in REGIMES:
        distributions: defaultdict[Series, list[Distribution]] = defaultdict(list)
        errors: defaultdict[ErrorSeries, int] = defaultdict(int)
        for part in read_rows(connection, Scope(regime), Bucket(part_s, whole.start), whole.end):
            for series, distribution in part.distributions.items():
                distributions[series].append(distribution)
            for error, count in part.errors.items():
                errors[error] += count
        merged = {series: merge(parts) for series, parts in distributions.items()}
        write_rows(connection, [Recorded(whole, MERGED, merged, errors)])


def _drop(connection: Connection, resolution_s: int, before: int) -> int | None:
    """Delete the rows of that resolution before that second; the start of the last one, None without any."""
    last = None
    for table in _TABLES:
        matches = and_(_range(table, resolution_s), table.c.start < before)
        found = connection.execute(select(func.max(table.c.start)).where(matches)).scalar()
        if found is not None:
            connection.execute(delete(table).where(matches))
            last = found if last is None else max(last, found)
    return last


def _range(table: Table, resolution_s: int) -> ColumnElement[bool]:
    # All regimes, by name: the key begins with resolution and regime, so this is a few ranges of the index.
    return and_(table.c.resolution_s == resolution_s, table.c.regime.in_(REGIMES))


def _write_progress(connection: Connection, progress: Progress) -> None:
    upsert(
        connection,
        latency_progress,
        [{"name": name, "until": until} for name, until in asdict(progress).items()],
    )
