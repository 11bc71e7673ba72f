"""A stretch of time is covered without gaps or overlaps."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from service.latency.buckets import (
    DAY_S,
    HOUR_S,
    MINUTE_S,
    Dropped,
    consecutive,
    cover,
    resolution_kept,
)

DAY = 20_000 * DAY_S


@given(
    start=st.integers(-6000, 6000).map(lambda minutes: DAY + minutes * MINUTE_S),
    length=st.integers(1, 300_000),
)
def test_each_moment_is_in_one_bucket(start: int, length: int) -> None:
    buckets = cover(start, start + length)
    assert buckets[0].start == start
    assert all(one.end == next_one.start for one, next_one in itertools.pairwise(buckets))
    assert buckets[-1].start < start + length <= buckets[-1].end
    for bucket in buckets:
        assert bucket.start % bucket.resolution_s == 0
        # An hour or a day may hold what a clock stamped that was ahead: not before it is over.
        assert bucket.resolution_s == MINUTE_S or bucket.end <= start + length
    assert [bucket for run in consecutive(buckets) for bucket in run] == buckets


def test_a_month_takes_few_buckets() -> None:
    now = DAY + 13 * HOUR_S + 41 * MINUTE_S + 7
    buckets = cover(DAY - 30 * DAY_S, now)
    assert [sum(1 for bucket in buckets if bucket.resolution_s == s) for s in (DAY_S, HOUR_S, MINUTE_S)] == [
        30,
        13,
        42,
    ]
    assert [len(run) for run in consecutive(buckets)] == [30, 13, 42]


def test_the_resolution_is_what_is_kept() -> None:
    now = DAY + 5 * HOUR_S
    assert resolution_kept(now - 48 * HOUR_S, now, Dropped()) == MINUTE_S
    assert resolution_kept(now - 48 * HOUR_S - 1, now, Dropped()) == HOUR_S
    # What is dropped are whole hours of minutes, and whole days of hours.
    assert resolution_kept(now - 48 * HOUR_S, now + 3599, Dropped()) == MINUTE_S
    assert resolution_kept(DAY - 7 * DAY_S, now, Dropped()) == HOUR_S
    assert resolution_kept(DAY - 7 * DAY_S - 1, now, Dropped()) == DAY_S
    assert resolution_kept(now, now, Dropped(minutes_from=now + HOUR_S)) == HOUR_S
    assert resolution_kept(now, now, Dropped(hours_from=now + HOUR_S)) == DAY_S
