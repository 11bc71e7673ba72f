"""Which buckets hold a stretch of time: as few as possible, each moment in exactly one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from service.latency.recorded import DAY_S, HOUR_S, MINUTE_S, Bucket, bucket_of
from service.latency.rollup import KEEP_HOURS_S, KEEP_MINUTES_S, Progress


def resolution_kept(moment: float, now: float, progress: Progress) -> int:
    """Seconds of the finest buckets that are still kept of that moment and all that follow."""
    if moment >= max(now - KEEP_MINUTES_S, progress.minutes_from, progress.hours_from):
        return MINUTE_S
    return HOUR_S if moment >= max(now - KEEP_HOURS_S, progress.hours_from) else DAY_S


def cover(start: int, end: float, progress: Progress, coarsest_s: int = DAY_S) -> list[Bucket]:
    """The buckets from `start` to `end`, none longer than `coarsest_s`: days and hours where they are whole
    and summed up, else minutes. `start` must be a multiple of `resolution_kept`."""
    buckets = []
    while start < end:
        for resolution_s, summed_until in ((DAY_S, progress.days_until), (HOUR_S, progress.hours_until)):
            bucket = Bucket(resolution_s, start)
            if (
                resolution_s <= coarsest_s
                and start % resolution_s == 0
                and bucket.end <= min(summed_until, end)
            ):
                break
        else:
            bucket = Bucket(MINUTE_S, start)
        buckets.append(bucket)
        start = bucket.end
    return buckets


def late(start: int, end: float, progress: Progress) -> list[Bucket]:
    """Hours and days that are not summed up, or not over, but may have rows of single instances all the same:
    of what could not be written for hours, or was recorded by a clock that was set back."""
    return [
        Bucket(resolution_s, at)
        for resolution_s, summed_until in ((HOUR_S, progress.hours_until), (DAY_S, progress.days_until))
        for at in range(
            max(
                min(summed_until, bucket_of(resolution_s, end).start),
                -(-start // resolution_s) * resolution_s,
            ),
            int(end),
            resolution_s,
        )
    ]


def stretches(buckets: Iterable[Bucket]) -> Iterator[list[Bucket]]:
    """The buckets in stretches of one length that follow each other without a gap."""
    stretch: list[Bucket] = []
    for bucket in buckets:
        if stretch and (bucket.resolution_s, bucket.start) != (stretch[-1].resolution_s, stretch[-1].end):
            yield stretch
            stretch = []
        stretch.append(bucket)
    if stretch:
        yield stretch
