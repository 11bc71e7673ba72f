"""Time buckets: minutes, hours and days. How long they are kept, and which of them cover a window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400

KEEP_MINUTES_S = 48 * HOUR_S
KEEP_HOURS_S = 7 * DAY_S
KEEP_DAYS_S = 366 * DAY_S

GRACE_S = 120
"""Seconds from the end of a bucket until it is closed, that is, until its rows no longer change.

By then every process of the service has written its rows of the bucket, unless the database was unavailable
to the process.
"""


class Bucket(NamedTuple):
    """A time interval of `resolution_s` seconds, whose start is a multiple of its length.

    `start` is in seconds since 1970, UTC.
    """

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

    Normally, a row is missing only if its age exceeds the limit that a KEEP constant sets. Newer rows are
    missing only if a clock was ahead, or if a process of the service could not save its rows for a long time.
    """

    minutes_from: int = 0
    hours_from: int = 0


def resolution_kept(moment: float, now: float, dropped: Dropped) -> int:
    """Return the finest resolution, in seconds, whose rows are stored for `moment` and all later times."""
    if moment >= max(kept_from(MINUTE_S, now), *dropped):
        return MINUTE_S
    return HOUR_S if moment >= max(kept_from(HOUR_S, now), dropped.hours_from) else DAY_S


def kept_from(resolution_s: int, now: float) -> int:
    """Return the time before which buckets of this resolution are not kept.

    For minute buckets it is the start of an hour, for longer buckets the start of a day.
    """
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
    """Split buckets into sequences without gaps. All buckets of a sequence have the same length.

    The store reads each sequence with one query.
    """
    run: list[Bucket] = []
    for bucket in buckets:
        if run and (bucket.resolution_s, bucket.start) != (run[-1].resolution_s, run[-1].end):
            yield run
            run = []
        run.append(bucket)
    if run:
        yield run
