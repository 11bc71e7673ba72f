"""What was written is read back, and dropped in time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text

from service.errors import StorageUnavailable
from service.latency.buckets import DAY_S, GRACE_S, HOUR_S, MINUTE_S, Bucket, bucket_of
from service.latency.histogram import Distribution, HistogramCodec
from service.latency.prometheus import Metrics
from service.latency.query import Latencies
from service.latency.recorder import Recorder
from service.latency.series import ErrorSeries, Figures, Part, Scope, Series
from service.latency.store import LatencyStore
from service.latency.tables import latency_errors, latency_histograms, latency_pooled, latency_progress
from service.storage.database import FILE_NAME, open_database

pytestmark = pytest.mark.databases("sqlite", "postgresql")

DAY = 20_000 * DAY_S
TOTAL = Series("live", "tiny", "", "", "total")
FULL = ErrorSeries("live", "tiny", "", "", "queue-full")


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path, migrated_url: str | None) -> Iterator[LatencyStore]:
    store = LatencyStore(open_database(migrated_url, tmp_path))
    store.ensure_open()
    yield store
    store.close()


def distribution(*milliseconds: int) -> Distribution:
    return Distribution.of([duration * 1_000_000 for duration in milliseconds])


def recorded(
    at: float, *milliseconds: int, instance: str = "one", errors: int = 0, resolution_s: int = MINUTE_S
) -> Part:
    return Part(
        bucket_of(resolution_s, at),
        instance,
        {TOTAL: distribution(*milliseconds)} if milliseconds else {},
        {FULL: errors} if errors else {},
    )


def at_every_resolution(at: float, *milliseconds: int, instance: str, errors: int = 0) -> list[Part]:
    """What an instance writes that recorded in this minute alone."""
    return [
        recorded(at, *milliseconds, instance=instance, errors=errors, resolution_s=resolution_s)
        for resolution_s in (MINUTE_S, HOUR_S, DAY_S)
    ]


def stored_parts(store: LatencyStore, resolution_s: int, regime: str = "live") -> list[Part]:
    """The rows of a resolution and regime as they were written, by bucket and instance."""
    codec = HistogramCodec()
    distributions: defaultdict[tuple[int, str], dict[Series, Distribution]] = defaultdict(dict)
    errors: defaultdict[tuple[int, str], dict[ErrorSeries, int]] = defaultdict(dict)
    with store.view() as view:
        c = latency_histograms.c
        columns = (c.start, c.instance, c.regime, c.model, c.version, c.runtime, c.stage)
        figures = (c.histogram, c.count, c.sum_ns, c.max_ns)
        wanted = (c.resolution_s == resolution_s, c.regime == regime)
        for start, instance, *row in view.connection.execute(select(*columns, *figures).where(*wanted)):
            distributions[start, instance][Series(*row[:5])] = codec.decode(*row[5:])
        e = latency_errors.c
        error_columns = (e.start, e.instance, e.regime, e.model, e.version, e.runtime, e.slug, e.count)
        wanted = (e.resolution_s == resolution_s, e.regime == regime)
        for start, instance, *row in view.connection.execute(select(*error_columns).where(*wanted)):
            errors[start, instance][ErrorSeries(*row[:5])] = row[5]
    return [
        Part(Bucket(resolution_s, key[0]), key[1], distributions[key], errors[key])
        for key in sorted(distributions.keys() | errors.keys())
    ]


def counts(store: LatencyStore, resolution_s: int) -> Counter[int]:
    found: Counter[int] = Counter()
    for part in stored_parts(store, resolution_s):
        if TOTAL in part.distributions:
            found[part.bucket.start] += part.distributions[TOTAL].count
    return found


def test_instance_overwrites_only_its_rows(store: LatencyStore) -> None:
    store.write([recorded(DAY, 1, instance="one", errors=1), recorded(DAY, 2, 2, instance="other")])
    store.write([recorded(DAY, 1, 5, 9, instance="one", errors=4)])
    one, other = stored_parts(store, MINUTE_S)
    assert (one.instance, other.instance) == ("one", "other")
    assert one.distributions[TOTAL].summary().max_ms == 9.0
    assert (one.distributions[TOTAL].count, other.distributions[TOTAL].count) == (3, 2)
    assert (one.errors, other.errors) == ({FULL: 4}, {})


@pytest.mark.slow
def test_hours_and_days_sum_all_instances(store: LatencyStore) -> None:
    clock = Clock(DAY)
    recorders = [Recorder(store, Metrics({}), clock=clock) for _ in range(2)]
    for minute in range(0, 26 * 60, 10):
        clock.now = DAY + minute * MINUTE_S
        recorders[0].record("tiny", "live", {"total": minute * 1_000_000})
        for _ in range(2):
            recorders[1].record("tiny", "live", {"total": 7_000_000})
        recorders[1].record_error("tiny", "live", "queue-full")
        for recorder in recorders:
            recorder.flush()
    assert counts(store, HOUR_S) == {DAY + hour * HOUR_S: 18 for hour in range(26)}
    assert counts(store, DAY_S) == {DAY: 24 * 18, DAY + DAY_S: 2 * 18}
    with store.view() as view:
        day = view.read(Scope("live"), Bucket(DAY_S, DAY), DAY + DAY_S)[Bucket(DAY_S, DAY)]
    assert day.errors == {"tiny": {"queue-full": 24 * 6}}
    assert day.distributions["tiny", "total"].max_ns == (24 * 60 - 10) * 1_000_000
    assert day.distributions["tiny", "total"].sum_ns == sum(
        (m + 14) * 1_000_000 for m in range(0, 24 * 60, 10)
    )


def test_figures_without_histograms(store: LatencyStore) -> None:
    store.write(at_every_resolution(DAY, *range(1, 900), instance="one", errors=12))
    hour = Bucket(HOUR_S, DAY)

    def read() -> dict[Bucket, Figures | None]:
        with store.view() as view:
            return view.read_figures(Scope("live"), hour, hour.end)

    (whole,) = stored_parts(store, HOUR_S)
    summary = whole.distributions[TOTAL].summary()
    assert summary.p99_ms is not None
    assert read() == {hour: Figures({("tiny", "total"): summary}, {"tiny": {"queue-full": 12}})}
    with store.view() as view:
        assert view.read_figures(Scope("live"), Bucket(HOUR_S, DAY + HOUR_S), DAY + 9 * HOUR_S) == {}
        minute = bucket_of(MINUTE_S, DAY)
        assert view.read_figures(Scope("live"), minute, minute.end) == {minute: None}, "read with others"
    other_version = Series("live", "tiny", "f" * 64, "", "total")
    store.write([Part(hour, "one", {other_version: distribution(7)}, {FULL: 1})])
    assert read() == {hour: None}


def test_percentiles_of_several_instances_are_pooled_once(store: LatencyStore) -> None:
    store.write(at_every_resolution(DAY, *range(1, 700), instance="one", errors=1))
    store.write(at_every_resolution(DAY, *range(500, 900), instance="other"))
    hour = Bucket(HOUR_S, DAY)

    def read(bucket: Bucket = hour) -> Figures | None:
        with store.view() as view:
            return view.read_figures(Scope("live"), bucket, bucket.end)[bucket]

    def expected(*more: int) -> Figures:
        summary = distribution(*range(1, 700), *range(500, 900), *more).summary()
        return Figures({("tiny", "total"): summary}, {"tiny": {"queue-full": 1}})

    store.maintain(hour.end + GRACE_S)
    assert read() is None, "a service that starts does not wait for it"
    store.maintain(hour.end + GRACE_S - 1)
    assert read() is None, "not closed yet"
    store.maintain(hour.end + GRACE_S)
    assert read() == expected()
    assert read(Bucket(DAY_S, DAY)) is None
    store.write(at_every_resolution(DAY, 7, 8, instance="late"))
    assert read() is None
    store.maintain(DAY + DAY_S + GRACE_S)
    assert read() == read(Bucket(DAY_S, DAY)) == expected(7, 8)
    store.maintain(DAY + 9 * DAY_S)
    with store.view() as view:
        kept = view.connection.execute(select(latency_pooled.c.resolution_s, latency_pooled.c.count)).all()
    assert kept == [(DAY_S, 1101)], "dropped with the histograms"


def test_pooling_newest_first(store: LatencyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.latency.rows.POOL_AT_ONCE", 3)
    for hour in range(5):
        for instance in ("one", "other"):
            store.write([recorded(DAY + hour * HOUR_S, 1, 2, instance=instance, resolution_s=HOUR_S)])
    with store._engine.begin() as connection:
        is_damaged = latency_histograms.c.start == DAY + 3 * HOUR_S
        connection.execute(latency_histograms.update().where(is_damaged).values(histogram=b"damaged"))

    def pooled() -> list[int]:
        with store.view() as view:
            starts = view.connection.execute(select(latency_pooled.c.start)).scalars()
            return sorted((start - DAY) // HOUR_S for start in starts)

    store.maintain(DAY)
    store.maintain(DAY + 6 * HOUR_S)
    assert pooled() == [2, 4]
    store.maintain(DAY + 7 * HOUR_S)
    assert pooled() == [0, 1, 2, 4]


def test_an_instance_can_be_left_out(store: LatencyStore) -> None:
    minute = bucket_of(MINUTE_S, DAY)
    store.write([recorded(DAY, 1, instance="one", errors=1), recorded(DAY, 2, 2, instance="other", errors=2)])
    with store.view() as view:
        read = view.read(Scope("live"), minute, minute.end, {(minute, "one")})
    assert read[minute].distributions["tiny", "total"].count == 2
    assert read[minute].errors == {"tiny": {"queue-full": 2}}


def test_versions_and_runtimes_are_pooled(store: LatencyStore) -> None:
    minute = bucket_of(MINUTE_S, DAY)
    series = [TOTAL, TOTAL._replace(version="a" * 64), TOTAL._replace(version="a" * 64, runtime="openvino")]
    errors = {FULL: 1, FULL._replace(version="a" * 64): 2}
    store.write([Part(minute, "one", {each: distribution(1, 2) for each in series}, errors)])
    with store.view() as view:
        (read,) = view.read(Scope("live"), minute, minute.end).values()
    assert read.distributions["tiny", "total"].count == 6
    assert read.errors == {"tiny": {"queue-full": 3}}


@pytest.mark.slow
def test_old_rows_are_dropped(store: LatencyStore) -> None:
    for hour in range(24 * 9):
        instance = f"day {hour // 24}"
        store.write([recorded(DAY + hour * HOUR_S, 1, errors=1, instance=instance)])
        store.write([recorded(DAY + hour * HOUR_S, 1, errors=1, instance=instance, resolution_s=HOUR_S)])
    store.write([recorded(DAY + day * DAY_S, 1, errors=1, resolution_s=DAY_S) for day in range(9)])
    now = DAY + 9 * DAY_S + 120
    store.maintain(now)
    assert min(counts(store, MINUTE_S)) == DAY + 7 * DAY_S
    assert min(counts(store, HOUR_S)) == DAY + 2 * DAY_S
    assert counts(store, DAY_S) == {DAY + day * DAY_S: 1 for day in range(9)}
    year_later = now + 360 * DAY_S
    store.maintain(year_later)
    assert counts(store, MINUTE_S) == counts(store, HOUR_S) == {}
    assert min(counts(store, DAY_S)) == DAY + 3 * DAY_S
    with store.view() as view:
        days = view.connection.execute(select(latency_errors.c.start)).scalars().all()
    assert min(days) == DAY + 3 * DAY_S


def test_clock_years_ahead_for_a_moment(store: LatencyStore) -> None:
    clock = Clock(DAY)
    recorder = Recorder(store, Metrics({}), clock=clock)
    recorder.record("tiny", "live", {"total": 1_000_000})
    recorder.flush()
    clock.now = DAY + 200 * DAY_S
    recorder.flush()
    assert counts(store, MINUTE_S) == counts(store, HOUR_S) == {}
    clock.now = DAY + 2 * HOUR_S
    for _ in range(2):
        recorder.record("tiny", "live", {"total": 1_000_000})
    recorder.flush()
    # The morning's minutes and hours are gone, so the answer begins where its day does.
    window, figures = Latencies(recorder).window("live", clock.now - HOUR_S)
    assert (window.start, window.resolution_s) == (DAY, DAY_S)
    clock.now += DAY_S
    recorder.flush()
    window, figures = Latencies(recorder).window("live", clock.now - DAY_S - HOUR_S)
    assert (window.start, window.resolution_s) == (DAY, DAY_S)
    assert figures.summaries["tiny", "total"].count == 3
    window, _ = Latencies(recorder).window("live", clock.now - HOUR_S)
    assert window.resolution_s == MINUTE_S


@pytest.mark.databases("sqlite")
def test_deleted_database_file(store: LatencyStore, tmp_path: Path) -> None:
    store.write([recorded(DAY, 1)])
    assert not store.ensure_open()
    for file in tmp_path.glob(f"{FILE_NAME}*"):
        file.unlink()
    assert store.ensure_open()
    store.write([recorded(DAY, 1, 2)])
    assert counts(store, MINUTE_S) == {DAY: 2}


def test_write_is_atomic(store: LatencyStore) -> None:
    broken = Part(Bucket(MINUTE_S, DAY), "one", {}, {FULL._replace(slug=None): 1})  # type: ignore[arg-type]
    with pytest.raises(StorageUnavailable):
        store.write([recorded(DAY, 1), broken])
    assert stored_parts(store, MINUTE_S) == []


def test_a_damaged_row_is_said(store: LatencyStore) -> None:
    store.write([recorded(DAY, 1)])
    with store._engine.begin() as connection:
        connection.execute(latency_histograms.update().values(histogram=b"damaged"))
    with pytest.raises(StorageUnavailable, match="damaged"), store.view() as view:
        view.read(Scope("live"), Bucket(MINUTE_S, DAY), DAY + 60)


def test_progress_of_an_older_replica_is_ignored(store: LatencyStore) -> None:
    with store._engine.begin() as connection:
        connection.execute(latency_progress.insert().values(name="hours_until", until=5))
    store.maintain(DAY)
    with store.view() as view:
        assert view.dropped.minutes_from <= 0


def test_a_closed_store_cannot_be_read(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageUnavailable, match="not open"),
        LatencyStore(open_database(None, tmp_path)).view(),
    ):
        pass


def test_models_are_known_by_what_was_recorded(store: LatencyStore) -> None:
    assert not store.knows()
    store.write([recorded(DAY, 1)])
    store.write([Part(Bucket(MINUTE_S, DAY), "one", {}, {FULL._replace(model="only-errors"): 1})])
    assert store.knows("tiny")
    assert store.knows("only-errors")
    assert not store.knows("other")
    assert store.knows()


@pytest.mark.databases("sqlite")
def test_questions_use_the_index(store: LatencyStore) -> None:
    with store.view() as view:
        plan = view.connection.execute(
            text(
                "EXPLAIN QUERY PLAN SELECT * FROM latency_histograms "
                "WHERE resolution_s = 60 AND regime = 'live' AND start >= 0 AND start < 100"
            )
        ).all()
    assert "SEARCH" in str(plan)
    assert "start>?" in str(plan)
