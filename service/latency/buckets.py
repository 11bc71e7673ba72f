"""Buckets of time: minutes, hours and days, how long each is kept, and which of them cover a window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400

KEEP_MINUTES_S = 48 * HOUR_S
KEEP_HOURS_S = 7 * DAY_S
KEEP_DAYS_S = 366 * DAY_S

GRACE_S = 120
"""A bucket that ended this long ago is closed: by then every instance has written its part, unless it could
not."""


class Bucket(NamedTuple):
    """A stretch of time, aligned to its own length: `start` in seconds since 1970, UTC."""

    resolution_s: int
    start: int

    @property
    def end(self) -> int:
        """The first second that is not in it."""
        return self.start + self.resolution_s


def bucket_of(resolution_s: int, moment: float) -> Bucket:
    """The bucket of that length which holds the moment."""
    return Bucket(resolution_s, int(moment // resolution_s) * resolution_s)


class Dropped(NamedTuple):
    """The moments before which rows of minutes and rows of hours may be missing, seconds since 1970.

    Later than the clock and the KEEP constants say only if the clock was ahead once, or if an instance could
    not save them for long.
    """

    minutes_from: int = 0
    hours_from: int = 0


def resolution_kept(moment: float, now: float, dropped: Dropped) -> int:
    """Seconds of the finest buckets that are still kept of that moment and all that follow."""
    if moment >= max(kept_from(MINUTE_S, now), *dropped):
        return MINUTE_S
    return HOUR_S if moment >= max(kept_from(HOUR_S, now), dropped.hours_from) else DAY_S


def kept_from(resolution_s: int, now: float) -> int:
    """The second from which buckets of that length are kept; minutes by whole hours, others by whole days."""
    if resolution_s == MINUTE_S:
        return bucket_of(HOUR_S, now - KEEP_MINUTES_S).start
    return bucket_of(DAY_S, now - (KEEP_HOURS_S if resolution_s == HOUR_S else KEEP_DAYS_S)).start


def cover(start: int, end: float) -> list[Bucket]:
    """The fewest buckets from `start` to `end` that hold each moment once.

    `start` must be a multiple of 60; the last bucket is the minute that holds the moment before `end`.
    """
    buckets = []
    while start < end:
        for resolution_s in (DAY_S, HOUR_S):
            bucket = Bucket(resolution_s, start)
            if start % resolution_s == 0 and bucket.end <= end:
                break
        else:
            bucket = Bucket(MINUTE_S, start)
        buckets.append(bucket)
        start = bucket.end
    return buckets


def consecutive(buckets: Iterable[Bucket]) -> Iterator[list[Bucket]]:
    """Split buckets into runs of one length without gaps, which the store reads with one query each."""
    run: list[Bucket] = []
    for bucket in buckets:
        if run and (bucket.resolution_s, bucket.start) != (run[-1].resolution_s, run[-1].end):
            yield run
            run = []
        run.append(bucket)
    if run:
        yield run
