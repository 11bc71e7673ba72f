"""Time buckets: minutes, hours and days, their retention, and the buckets that cover a window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400

KEEP_MINUTES_S = 48 * HOUR_S
KEEP_HOURS_S = 7 * DAY_S
KEEP_DAYS_S = 366 * DAY_S

GRACE_S = 120
"""A bucket is closed this many seconds after its end: by then every instance has written its part, unless
the database was unavailable to it."""


class Bucket(NamedTuple):
    """A time interval, aligned to its length; `start` in seconds since 1970, UTC."""

    resolution_s: int
    start: int

    @property
    def end(self) -> int:
        """First second after the bucket."""
        return self.start + self.resolution_s


def bucket_of(resolution_s: int, moment: float) -> Bucket:
    """Return the bucket of this length that contains `moment`."""
    return Bucket(resolution_s, int(moment // resolution_s) * resolution_s)


class Dropped(NamedTuple):
    """Times, in seconds since 1970, before which rows of minutes and of hours may be missing.

    They are later than the KEEP constants imply only if the clock was ahead, or if an instance could not
    save its rows for a long time.
    """

    minutes_from: int = 0
    hours_from: int = 0


def resolution_kept(moment: float, now: float, dropped: Dropped) -> int:
    """Return the resolution, in seconds, that is still stored for `moment` and all later times."""
    if moment >= max(kept_from(MINUTE_S, now), *dropped):
        return MINUTE_S
    return HOUR_S if moment >= max(kept_from(HOUR_S, now), dropped.hours_from) else DAY_S


def kept_from(resolution_s: int, now: float) -> int:
    """Return the time since which buckets are kept: the start of an hour for minutes, else of a day."""
    if resolution_s == MINUTE_S:
        return bucket_of(HOUR_S, now - KEEP_MINUTES_S).start
    return bucket_of(DAY_S, now - (KEEP_HOURS_S if resolution_s == HOUR_S else KEEP_DAYS_S)).start


def cover(start: int, end: float) -> list[Bucket]:
    """Return the fewest buckets that cover `start` to `end` without overlap.

    `start` must be a multiple of 60; the last bucket may end after `end`.
    """
    buckets = []
    while start < end:
        resolution_s = MINUTE_S
        if start % HOUR_S == 0 and start + HOUR_S <= end:
            resolution_s = DAY_S if start % DAY_S == 0 and start + DAY_S <= end else HOUR_S
        buckets.append(Bucket(resolution_s, start))
        start += resolution_s
    return buckets


def consecutive(buckets: Iterable[Bucket]) -> Iterator[list[Bucket]]:
    """Split buckets into gapless runs of one bucket length; the store reads each run with one query."""
    run: list[Bucket] = []
    for bucket in buckets:
        if run and (bucket.resolution_s, bucket.start) != (run[-1].resolution_s, run[-1].end):
            yield run
            run = []
        run.append(bucket)
    if run:
        yield run
