"""Cache of pooled latencies.

Closed buckets are read from the store once, open buckets at most once per second.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cachetools import LRUCache, TLRUCache, TTLCache

from service.latency.buckets import (
    DAY_S,
    GRACE_S,
    HOUR_S,
    MINUTE_S,
    Bucket,
    Dropped,
    bucket_of,
    consecutive,
    cover,
    resolution_kept,
)
from service.latency.recorder import Recorder
from service.latency.series import Figures, Pooled, Scope, combine
from service.latency.store import StoreView

OPEN_FOR_S = 1.0
"""Seconds for which rows of open buckets are cached after they were read from the store.

The latencies of this process are always read from its memory.
"""

_SUM_WITH_MINUTES_S = float(max(MINUTE_S, GRACE_S))
"""Seconds for which a sum that has minutes is kept.

By then, a question selects other closed buckets: one minute is closed per minute, but none in the GRACE_S
seconds after the end of an hour.
"""

_SUM_S = float(HOUR_S)
"""Seconds for which a sum of hours and days is kept. By then, another hour is closed."""

_MOST_SUMMED = 2_000
"""Maximum number of distributions in all sums."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Question:
    """A query, with the data in memory and the view of the store from which it is answered.

    `scope`: what the query selects. `now`: time of the query, in seconds since 1970. `memory`: the data of
    this process, pooled by bucket. `in_memory`: the buckets of `memory`, each with the instance id under
    which its data were recorded. Rows in the store with the same bucket and instance id must be skipped,
    because their data are in `memory` already. `dropped`: times before which rows may be missing. `view`:
    None if only memory is read.
    """

    scope: Scope
    now: float
    memory: Mapping[Bucket, Pooled]
    in_memory: frozenset[tuple[Bucket, str]]
    dropped: Dropped
    view: StoreView | None

    def resolution_at(self, since: float) -> int:
        """Return the finest resolution, in seconds, that is stored for everything from `since` on."""
        return resolution_kept(since, self.now, self.dropped)

    def is_closed(self, step: Bucket) -> bool:
        """Return whether the store has all data of this time step and will not change them any more."""
        return (
            self.view is not None
            and step.end <= self.now - GRACE_S
            and not any(step.start <= bucket.start and bucket.end <= step.end for bucket in self.memory)
        )

    def read(
        self, buckets: Iterable[Bucket], without: frozenset[tuple[Bucket, str]] = frozenset()
    ) -> dict[Bucket, Pooled]:
        """Read these buckets from the store.

        `without`: pairs of a bucket and a process. The rows that the process of a pair wrote for the bucket
        of the pair are skipped.
        """
        read: dict[Bucket, Pooled] = {}
        if self.view is not None:
            for run in consecutive(buckets):
                read |= self.view.read(self.scope, run[0], run[-1].end, without)
        return read

    def read_figures(self, steps: Iterable[Bucket]) -> dict[Bucket, Figures]:
        """Read the figures of the time steps whose percentiles are stored.

        Time steps for which histograms would have to be merged are absent from the result.
        """
        figures: dict[Bucket, Figures] = {}
        if self.view is not None:
            for run in consecutive(step for step in steps if step.resolution_s in (HOUR_S, DAY_S)):
                read = self.view.read_figures(self.scope, run[0], run[-1].end)
                figures |= {
                    step: known for step in run if (known := read.get(step, Figures({}, {}))) is not None
                }
        return figures


class LatencyCache:
    """Caches closed buckets, their sums, and the figures of the closed time steps of histories.

    It is not thread-safe. `timer`: returns the seconds of a clock that is never set, for the age of sums.
    """

    def __init__(self, recorder: Recorder, timer: Callable[[], float] = time.monotonic) -> None:
        self._recorder = recorder
        self._revision: Hashable = None
        # The limits count distributions (about 1 kB each), and in `_steps` summaries (about 0.3 kB each).
        self._buckets: LRUCache[tuple[Scope, Bucket], Pooled] = _weighted(
            30_000, lambda pooled: len(pooled.distributions)
        )
        self._sums: TLRUCache[tuple[Scope, tuple[Bucket, ...]], tuple[Pooled, Figures]] = TLRUCache(
            _MOST_SUMMED,
            _sum_kept_until,
            timer,
            lambda sums: _weight(_MOST_SUMMED, len(sums[0].distributions)),
        )
        self._steps: LRUCache[tuple[Scope, Bucket], Figures] = _weighted(
            40_000, lambda figures: len(figures.summaries)
        )
        self._open: TTLCache[
            tuple[Scope, tuple[Bucket, ...], frozenset[tuple[Bucket, str]]], Mapping[Bucket, Pooled]
        ] = TTLCache(64, OPEN_FOR_S)

    def drop(self, is_old: Callable[[Scope], bool]) -> None:
        """Drop everything that is cached for the scopes for which `is_old` returns True."""
        for cache in (self._buckets, self._sums, self._steps, self._open):
            _drop(cache, is_old)

    @contextlib.contextmanager
    def ask(self, scope: Scope) -> Iterator[Question]:
        """Yield a query over the recorder's memory and the store.

        Raises StorageUnavailable if the store cannot be read.
        """
        store = self._recorder.store
        if store is None:
            yield self.ask_memory(scope)
            return
        now, memory = self._recorder.now(), self._memory(scope)  # in this order, before the store is read
        dropped, revision = self._recorder.dropped(), self._recorder.history_revision()
        with store.view() as view:
            if (revision, view.late_writes) != self._revision:
                self._revision = revision, view.late_writes
                for cache in (self._buckets, self._sums, self._steps, self._open):
                    cache.clear()
            yield Question(scope, now, *memory, Dropped(*map(max, dropped, view.dropped)), view)

    def ask_memory(self, scope: Scope) -> Question:
        """Return a query over the recorder's memory only."""
        now, memory = self._recorder.now(), self._memory(scope)
        return Question(scope, now, *memory, self._recorder.dropped(), None)

    def _memory(self, scope: Scope) -> tuple[Mapping[Bucket, Pooled], frozenset[tuple[Bucket, str]]]:
        parts = self._recorder.memory()
        pooled: defaultdict[Bucket, list[Pooled]] = defaultdict(list)
        is_ours = scope.machine in (None, self._recorder.machine)
        for part in parts:
            pooled[part.bucket].append(part.pooled(scope) if is_ours else Pooled())
        in_memory = frozenset((part.bucket, part.instance) for part in parts)
        return {bucket: combine(same) for bucket, same in pooled.items()}, in_memory

    def figures(self, question: Question, start: int, end: float) -> Figures:
        """Return the figures from `start` to `end`; `end` may be infinite."""
        closed, closed_figures, fresh = self._parts(question, start, end)
        # Recompute only the series that changed, usually a few.
        touched = closed.distributions.keys() & fresh.distributions.keys()
        changed = combine(
            [Pooled({key: closed.distributions[key] for key in touched}, closed.errors), fresh]
        ).figures()
        return Figures({**closed_figures.summaries, **changed.summaries}, changed.errors)

    def pooled(self, question: Question, start: int) -> Pooled:
        """Return the distributions and error counts from `start` on."""
        closed, _, fresh = self._parts(question, start, math.inf)
        return combine([closed, fresh])

    def _parts(self, question: Question, start: int, end: float) -> tuple[Pooled, Figures, Pooled]:
        """Return the sum of closed buckets, the figures of this sum, and the sum of all other data.

        The other data are the rows of open buckets in the store, and the data in memory.
        """
        buckets = cover(start, min(end, math.floor(question.now) + 1))  # includes the current second
        closed = tuple(bucket for bucket in buckets if question.is_closed(bucket))
        is_open = sorted({*buckets}.difference(closed), key=lambda bucket: bucket.start)
        fresh = combine(
            [
                *self._read_open(question, is_open).values(),
                *(question.memory[bucket] for bucket in is_open if bucket in question.memory),
            ]
        )
        return *self._sum(question, closed), fresh

    def step(self, question: Question, step: Bucket) -> Figures | None:
        """Return the figures of a closed time step, which `sum_up` must have computed before.

        Return None for an open time step.
        """
        return self._steps.get((question.scope, step)) if question.is_closed(step) else None

    def sum_up(self, question: Question, steps: Sequence[Bucket]) -> None:
        """Compute and cache the figures of the closed time steps among `steps`."""
        missing = [
            step for step in steps if (question.scope, step) not in self._steps and question.is_closed(step)
        ]
        known = question.read_figures(missing)
        for run in consecutive(step for step in missing if step not in known):
            # In portions, because the distributions of a long run of minutes take much memory.
            for portion in (run[at : at + 64] for at in range(0, len(run), 64)):
                step_s = portion[0].resolution_s
                parts: dict[Bucket, list[Pooled]] = {step: [] for step in portion}
                buckets = [bucket for step in portion for bucket in cover(step.start, step.end)]
                for bucket, pooled in question.read(buckets).items():
                    parts[bucket_of(step_s, bucket.start)].append(pooled)
                known |= {step: combine(same).figures() for step, same in parts.items()}
        for step, figures in known.items():
            self._steps[question.scope, step] = figures

    def _sum(self, question: Question, closed: tuple[Bucket, ...]) -> tuple[Pooled, Figures]:
        key = (question.scope, closed)
        known = self._sums.get(key)
        if known is None:
            coarse = tuple(bucket for bucket in closed if bucket.resolution_s != MINUTE_S)
            if coarse and len(coarse) < len(closed):
                # Hours and days change once an hour, so their sum is cached separately.
                minutes = [bucket for bucket in closed if bucket.resolution_s == MINUTE_S]
                pooled = combine([self._sum(question, coarse)[0], *self._read_closed(question, minutes)])
            else:
                pooled = combine(self._read_closed(question, closed))
            known = self._sums[key] = (pooled, pooled.figures())
        return known

    def _read_closed(self, question: Question, buckets: Sequence[Bucket]) -> list[Pooled]:
        scope = question.scope
        missing = [bucket for bucket in buckets if (scope, bucket) not in self._buckets]
        read = dict.fromkeys(missing, Pooled()) | question.read(missing)
        # Collect all buckets before caching new ones, because caching may evict others.
        pooled = [read[bucket] if bucket in read else self._buckets[scope, bucket] for bucket in buckets]
        for bucket, part in read.items():
            self._buckets[scope, bucket] = part
        return pooled

    def _read_open(self, question: Question, buckets: list[Bucket]) -> Mapping[Bucket, Pooled]:
        """Return the pooled rows of open buckets in the store, without rows whose data are in memory."""
        key = (question.scope, tuple(buckets), question.in_memory)
        known = self._open.get(key)
        if known is None:
            known = self._open[key] = question.read(buckets, question.in_memory)
        return known


def _sum_kept_until(key: tuple[Scope, tuple[Bucket, ...]], _: object, now: float) -> float:
    has_minutes = any(bucket.resolution_s == MINUTE_S for bucket in key[1])
    return now + (_SUM_WITH_MINUTES_S if has_minutes else _SUM_S)


def _weighted(limit: int, length: Callable[[V], int]) -> LRUCache[K, V]:
    return LRUCache(limit, lambda value: _weight(limit, length(value)))


def _weight(limit: int, length: int) -> int:
    return min(limit, 1 + length)  # capped, because an entry over the limit would raise an error


def _drop(cache: MutableMapping[Any, Any], is_old: Callable[[Scope], bool]) -> None:
    for key in [key for key in cache if is_old(key[0])]:
        cache.pop(key, None)  # it may have expired meanwhile
