"""What was written is read back, rolled up without loss, and dropped in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text

from service.errors import StorageUnavailable
from service.latency.histogram import Distribution, DurationHistogram
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
    Told,
    bucket_of,
)
from service.latency.rows import write_rows
from service.latency.store import GRACE_S, LatencyStore
from service.storage.database import FILE_NAME, open_database
from service.storage.tables import latency_errors, latency_histograms

pytestmark = pytest.mark.databases("sqlite", "postgresql")

DAY = 20_000 * DAY_S
TOTAL = Series("live", "tiny", "total")
FULL = ErrorSeries("live", "tiny", "queue-full")


@pytest.fixture
def store(tmp_path: Path, database_url: str | None) -> Iterator[LatencyStore]:
    store = LatencyStore(open_database(database_url, tmp_path))
    store.ensure_open()
    yield store
    store.close()


def distribution(*milliseconds: int) -> Distribution:
    histogram = DurationHistogram()
    for duration in milliseconds:
        histogram.record(duration * 1_000_000)
    return histogram.snapshot()


def recorded(at: float, *milliseconds: int, instance: str = "one", errors: int = 0) -> Recorded:
    return Recorded(
        bucket_of(MINUTE_S, at),
        instance,
        {TOTAL: distribution(*milliseconds)} if milliseconds else {},
        {FULL: errors} if errors else {},
    )


def rows(store: LatencyStore, resolution_s: int) -> list[Recorded]:
    with store.view() as view:
        return view.read(Scope("live"), Bucket(resolution_s, 0), 1 << 40)


def counts(store: LatencyStore, resolution_s: int) -> Counter[int]:
    found: Counter[int] = Counter()
    for part in rows(store, resolution_s):
        if TOTAL in part.distributions:
            found[part.bucket.start] += part.distributions[TOTAL].count
    return found


def test_an_instance_overwrites_its_own_rows_and_no_others(store: LatencyStore) -> None:
    store.write([recorded(DAY, 1, instance="one", errors=1), recorded(DAY, 2, 2, instance="other")])
    store.write([recorded(DAY, 1, 5, 9, instance="one", errors=4)])
    one, other = rows(store, MINUTE_S)
    assert (one.instance, other.instance) == ("one", "other")
    assert one.distributions[TOTAL].summary().max_ms == 9.0
    assert (one.distributions[TOTAL].count, other.distributions[TOTAL].count) == (3, 2)
    assert (one.errors, other.errors) == ({FULL: 4}, {})


def test_closed_hours_and_days_are_the_sum_of_all_instances(store: LatencyStore) -> None:
    for minute in range(0, 26 * 60, 10):
        at = DAY + minute * MINUTE_S
        store.write([recorded(at, minute, instance="one"), recorded(at, 7, 7, instance="other", errors=1)])
    store.maintain(DAY + 26 * HOUR_S + GRACE_S, None)
    assert counts(store, HOUR_S) == {DAY + hour * HOUR_S: 18 for hour in range(26)}
    assert counts(store, DAY_S) == {DAY: 24 * 18}
    (day,) = rows(store, DAY_S)
    assert day.instance == MERGED
    assert day.errors == {FULL: 24 * 6}
    assert day.distributions[TOTAL].max_ns == (24 * 60 - 10) * 1_000_000
    assert day.distributions[TOTAL].sum_ns == sum((m + 14) * 1_000_000 for m in range(0, 24 * 60, 10))


def test_sums_tell_their_figures_without_their_histograms(store: LatencyStore) -> None:
    for minute in range(0, 60, 10):
        at = DAY + minute * MINUTE_S
        store.write([recorded(at, *range(minute + 1, minute + 150), errors=2)])
    store.maintain(DAY + HOUR_S + GRACE_S, None)
    hour = Bucket(HOUR_S, DAY)

    def told() -> dict[int, Told | None]:
        with store.view() as view:
            return view.read_summaries(Scope("live"), hour, hour.end)

    (whole,) = rows(store, HOUR_S)
    assert told() == {DAY: Told({TOTAL: whole.distributions[TOTAL].summary()}, {FULL: 12})}
    assert whole.distributions[TOTAL].summary().p99_ms is not None
    with store.view() as view:
        assert view.read_summaries(Scope("live"), Bucket(HOUR_S, DAY + HOUR_S), DAY + 9 * HOUR_S) == {}
        minute = bucket_of(MINUTE_S, DAY)
        assert view.read_summaries(Scope("live"), minute, minute.end) == {DAY: None}, "read with others"
    with store._engine.begin() as connection:  # as a clock that is set back far would write
        write_rows(connection, [Recorded(hour, "late", {TOTAL: distribution(7)}, {FULL: 1})])
    assert told() == {DAY: None}


def test_an_hour_is_not_summed_up_before_its_grace_is_over_nor_while_a_part_is_missing(
    store: LatencyStore,
) -> None:
    store.write([recorded(DAY, 1)])
    store.maintain(DAY + HOUR_S + GRACE_S - 1, None)
    assert counts(store, HOUR_S) == {}
    store.maintain(DAY + HOUR_S + GRACE_S, DAY + 60)
    assert counts(store, HOUR_S) == {}
    store.maintain(DAY + HOUR_S + GRACE_S, DAY + HOUR_S)
    assert counts(store, HOUR_S) == {DAY: 1}


def test_what_is_written_late_gets_into_the_sums(store: LatencyStore) -> None:
    store.write([recorded(DAY + hour * HOUR_S, 1) for hour in range(30)])
    now = DAY + 30 * HOUR_S + GRACE_S
    store.maintain(now, None)
    before = store.rewritten
    store.write([recorded(DAY + 5 * HOUR_S + 600, 2, 3, instance="late", errors=2)])
    assert store.rewritten > before
    store.maintain(now, None)
    assert counts(store, HOUR_S)[DAY + 5 * HOUR_S] == 3
    assert counts(store, DAY_S) == {DAY: 26}
    assert sum(counts(store, HOUR_S).values()) == 32


def test_hours_that_were_written_late_as_such_get_into_the_day(store: LatencyStore) -> None:
    store.write([recorded(DAY + hour * HOUR_S, 1) for hour in range(30)])
    store.maintain(DAY + 30 * HOUR_S + GRACE_S, None)
    store.write([Recorded(Bucket(HOUR_S, DAY + 3 * HOUR_S), "late", {TOTAL: distribution(4, 4)}, {})])
    store.maintain(DAY + 30 * HOUR_S + GRACE_S, None)
    assert counts(store, HOUR_S)[DAY + 3 * HOUR_S] == 3
    assert counts(store, DAY_S) == {DAY: 26}


def test_old_rows_are_dropped_once_they_are_summed_up(store: LatencyStore) -> None:
    store.write([recorded(DAY + hour * HOUR_S, 1, errors=1) for hour in range(24 * 9)])
    now = DAY + 9 * DAY_S + GRACE_S
    store.maintain(now, None)
    assert min(counts(store, MINUTE_S)) == DAY + 7 * DAY_S
    assert min(counts(store, HOUR_S)) == DAY + 2 * DAY_S
    assert counts(store, DAY_S) == {DAY + day * DAY_S: 24 for day in range(9)}
    year_later = now + 360 * DAY_S
    store.maintain(year_later, None)
    assert counts(store, MINUTE_S) == counts(store, HOUR_S) == {}
    assert min(counts(store, DAY_S)) == DAY + 3 * DAY_S
    with store.view() as view:
        days = view.connection.execute(select(latency_errors.c.start)).scalars().all()
    assert min(days) == DAY + 3 * DAY_S


def test_what_was_left_by_a_process_that_never_rolled_up_is_not_dropped_unsummed(store: LatencyStore) -> None:
    store.write([recorded(DAY + hour * HOUR_S, 1) for hour in range(5)])
    store.maintain(DAY + 100 * DAY_S, None)
    assert counts(store, MINUTE_S) == {}
    assert counts(store, DAY_S) == {DAY: 5}


def test_a_clock_that_was_years_ahead_for_a_moment_spoils_nothing(store: LatencyStore) -> None:
    store.write([recorded(DAY, 1)])
    store.maintain(DAY + 200 * DAY_S, None)
    now = DAY + 2 * HOUR_S
    bucket = store.bucket_for(now)
    assert bucket.resolution_s == DAY_S  # the day's hours are gone, so its sum cannot be made anew
    store.write([Recorded(bucket, "after", {TOTAL: distribution(1, 1)}, {})])
    store.maintain(now + DAY_S, None)
    assert counts(store, DAY_S) == {DAY: 3}
    assert store.bucket_for(now + DAY_S).resolution_s == MINUTE_S


def test_minutes_are_recorded_where_their_hour_can_still_be_summed_up_anew(store: LatencyStore) -> None:
    store.write([recorded(DAY + hour * HOUR_S, 1) for hour in range(24 * 3)])
    store.maintain(DAY + 3 * DAY_S + GRACE_S, None)
    assert store.bucket_for(DAY + 2 * DAY_S) == Bucket(MINUTE_S, DAY + 2 * DAY_S)
    assert store.bucket_for(DAY + 3600) == Bucket(HOUR_S, DAY + 3600)


@pytest.mark.databases("sqlite")
def test_the_database_is_made_anew_when_its_file_is_gone(store: LatencyStore, tmp_path: Path) -> None:
    store.write([recorded(DAY, 1)])
    assert not store.ensure_open()
    for file in tmp_path.glob(f"{FILE_NAME}*"):
        file.unlink()
    assert store.ensure_open()
    store.write([recorded(DAY, 1, 2)])
    assert counts(store, MINUTE_S) == {DAY: 2}


def test_nothing_is_written_when_a_part_cannot_be(store: LatencyStore) -> None:
    broken = Recorded(Bucket(MINUTE_S, DAY), "one", {}, {FULL._replace(slug=None): 1})  # type: ignore[arg-type]
    with pytest.raises(StorageUnavailable):
        store.write([recorded(DAY, 1), broken])
    assert rows(store, MINUTE_S) == []


def test_a_damaged_row_is_said(store: LatencyStore) -> None:
    store.write([recorded(DAY, 1)])
    with store._engine.begin() as connection:
        connection.execute(latency_histograms.update().values(histogram=b"damaged"))
    with pytest.raises(StorageUnavailable, match="damaged"):
        rows(store, MINUTE_S)


def test_a_closed_store_cannot_be_read(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageUnavailable, match="not open"),
        LatencyStore(open_database(None, tmp_path)).view(),
    ):
        pass


def test_models_are_known_by_what_was_recorded(store: LatencyStore) -> None:
    store.write([recorded(DAY, 1)])
    store.write([Recorded(Bucket(MINUTE_S, DAY), "one", {}, {FULL._replace(model="only-errors"): 1})])
    assert store.knows("tiny")
    assert store.knows("only-errors")
    assert not store.knows("other")


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
