"""A stretch of time is covered without gaps, overlaps or sums that are not made yet."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from service.latency.cover import cover, late, resolution_kept, stretches
from service.latency.recorded import DAY_S, HOUR_S, MINUTE_S, Bucket
from service.latency.rollup import Progress

DAY = 20_000 * DAY_S
HOURS = st.integers(-100, 100).map(lambda hours: DAY + hours * HOUR_S)


@given(
    start=st.integers(-6000, 6000).map(lambda minutes: DAY + minutes * MINUTE_S),
    length=st.integers(1, 300_000),
    hours_until=HOURS,
    days=st.integers(-4, 4),
    coarsest=st.sampled_from([MINUTE_S, HOUR_S, DAY_S]),
)
def test_each_moment_is_in_one_bucket(
    start: int, length: int, hours_until: int, days: int, coarsest: int
) -> None:
    progress = Progress(hours_until, min(DAY + days * DAY_S, hours_until // DAY_S * DAY_S))
    buckets = cover(start, start + length, progress, coarsest)
    assert buckets[0].start == start
    assert all(one.end == next_one.start for one, next_one in itertools.pairwise(buckets))
    assert buckets[-1].start < start + length <= buckets[-1].end
    for bucket in buckets:
        assert bucket.start % bucket.resolution_s == 0
        assert bucket.resolution_s <= coarsest
        if bucket.resolution_s == HOUR_S:
            assert bucket.end <= progress.hours_until
        if bucket.resolution_s == DAY_S:
            assert bucket.end <= progress.days_until
    # What single instances left in hours and days is in none of them a second time.
    assert not set(buckets) & set(late(start, start + length, progress))
    assert [bucket for stretch in stretches(buckets) for bucket in stretch] == buckets


def test_a_month_takes_few_buckets() -> None:
    now = DAY + 13 * HOUR_S + 41 * MINUTE_S + 7
    progress = Progress(DAY + 13 * HOUR_S, DAY)
    buckets = cover(DAY - 30 * DAY_S, now, progress)
    assert [sum(1 for bucket in buckets if bucket.resolution_s == s) for s in (DAY_S, HOUR_S, MINUTE_S)] == [
        30,
        13,
        42,
    ]
    assert [len(stretch) for stretch in stretches(buckets)] == [30, 13, 42]


def test_late_hours_and_days_are_those_not_summed_up() -> None:
    progress = Progress(DAY + 2 * HOUR_S, DAY)
    assert late(DAY - DAY_S, DAY + 4 * HOUR_S, progress) == [
        Bucket(HOUR_S, DAY + 2 * HOUR_S),
        Bucket(HOUR_S, DAY + 3 * HOUR_S),
        Bucket(DAY_S, DAY),
    ]
    assert late(DAY + 60, DAY + HOUR_S, Progress(DAY, DAY)) == []


def test_the_resolution_is_what_is_kept() -> None:
    now = DAY + 5 * HOUR_S
    assert resolution_kept(now - 48 * HOUR_S, now, Progress()) == MINUTE_S
    assert resolution_kept(now - 48 * HOUR_S - 1, now, Progress()) == HOUR_S
    assert resolution_kept(now - 7 * DAY_S - 1, now, Progress()) == DAY_S
    assert resolution_kept(now, now, Progress(minutes_from=now + HOUR_S)) == HOUR_S
    assert resolution_kept(now, now, Progress(hours_from=now + HOUR_S)) == DAY_S
