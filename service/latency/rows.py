"""Rows of the latency tables to plain types and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, text
from sqlalchemy.dialects import postgresql, sqlite

from service.errors import StorageUnavailable
from service.latency.histogram import Decoder, Distribution, Percentiles, summarise
from service.latency.recorded import MERGED, Bucket, ErrorSeries, Recorded, Scope, Series, Told
from service.storage.errors import DAMAGED
from service.storage.tables import latency_errors, latency_histograms


def write_rows(connection: Connection, recorded: Sequence[Recorded]) -> None:
    """Write all series given, over those of the same bucket and instance."""
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
                "histogram": distribution.encode(),
                **dict(zip(_PERCENTILES, _kept_percentiles(part.instance, distribution), strict=True)),
            }
            for part in recorded
            for series, distribution in part.distributions.items()
        ],
    )
    upsert(
        connection,
        latency_errors,
        [
            {**part.bucket._asdict(), "instance": part.instance, **series._asdict(), "count": count}
            for part in recorded
            for series, count in part.errors.items()
        ],
    )


def _kept_percentiles(instance: str, distribution: Distribution) -> Percentiles | tuple[None, ...]:
    # Rows of single instances are written every second and read together with others: not worth it.
    return distribution.percentiles_ns() if instance == MERGED else (None,) * len(_PERCENTILES)


def read_rows(connection: Connection, scope: Scope, first: Bucket, end: int) -> list[Recorded]:
    """What is kept of it in the buckets as long as `first`, from `first` to before `end` (seconds).

    Raises StorageUnavailable for a histogram that cannot be decoded.
    """
    distributions: dict[tuple[int, str], dict[Series, Distribution]] = {}
    errors: dict[tuple[int, str], dict[ErrorSeries, int]] = {}
    decoder = Decoder()
    regime, one_model, one_stage = scope
    where = {**scope._asdict(), "resolution_s": first.resolution_s, "start": first.start, "end": end}
    histograms = text(_HISTOGRAMS + (_OF_MODEL if one_model else "") + (_OF_STAGE if one_stage else ""))
    for start, instance, model, stage, *encoded in connection.execute(histograms, where):
        part = distributions.setdefault((start, instance), {})
        try:
            part[Series(regime, model, stage)] = decoder.decode(*encoded)
        except ValueError as error:
            raise StorageUnavailable(DAMAGED) from error
    counts = text(_ERRORS + (_OF_MODEL if one_model else ""))
    for start, instance, model, slug, count in connection.execute(counts, where):
        errors.setdefault((start, instance), {})[ErrorSeries(regime, model, slug)] = count
    return [
        Recorded(
            Bucket(first.resolution_s, start),
            instance,
            distributions.get((start, instance), {}),
            errors.get((start, instance), {}),
        )
        for start, instance in sorted(distributions.keys() | errors.keys())
    ]


def read_summaries(connection: Connection, scope: Scope, first: Bucket, end: int) -> dict[int, Told | None]:
    """What is told of each bucket, by its start, from the percentiles that are kept beside the histograms.

    The buckets are those of `read_rows`. None where these do not tell: a row without percentiles, or several
    of one series. Buckets without rows are absent.
    """
    told: dict[int, Told | None] = {}
    regime, one_model, one_stage = scope
    where = {**scope._asdict(), "resolution_s": first.resolution_s, "start": first.start, "end": end}
    rows = text(_SUMMARIES + (_OF_MODEL if one_model else "") + (_OF_STAGE if one_stage else ""))
    for start, model, stage, count, sum_ns, max_ns, *percentiles in connection.execute(rows, where):
        bucket = told.setdefault(start, Told({}, {}))
        series = Series(regime, model, stage)
        if bucket is None or None in percentiles or series in bucket.summaries:
            told[start] = None
        else:
            p50, p90, p95, p99 = percentiles
            bucket.summaries[series] = summarise(count, sum_ns, max_ns, (p50, p90, p95, p99))
    counts = text(_ERRORS + (_OF_MODEL if one_model else ""))
    for start, _, model, slug, count in connection.execute(counts, where):
        if (bucket := told.setdefault(start, Told({}, {}))) is not None:
            error = ErrorSeries(regime, model, slug)
            bucket.errors[error] = bucket.errors.get(error, 0) + count
    return told


# Written out: at ten thousand rows an answer, SQLAlchemy's typed rows would cost as much as SQLite.
_WHERE = " WHERE resolution_s = :resolution_s AND regime = :regime AND start >= :start AND start < :end"
_OF_MODEL = " AND model = :model"
_OF_STAGE = " AND stage = :stage"
_HISTOGRAMS = (
    "SELECT start, instance, model, stage, histogram, count, sum_ns, max_ns FROM latency_histograms" + _WHERE
)
_PERCENTILES = ("p50_ns", "p90_ns", "p95_ns", "p99_ns")
_SUMMARIES = (
    f"SELECT start, model, stage, count, sum_ns, max_ns, {', '.join(_PERCENTILES)} FROM latency_histograms"
    + _WHERE
)
_ERRORS = "SELECT start, instance, model, slug, count FROM latency_errors" + _WHERE


def upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, or overwrite those that have the same key. SQLite and PostgreSQL spell it alike."""
    if not rows:
        return
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    keys = [column.name for column in table.primary_key]
    replaced = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=replaced), rows)
