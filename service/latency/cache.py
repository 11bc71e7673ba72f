"""Pooled latencies of closed buckets, read once and remembered, and of open ones, read for every question."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cachetools import LRUCache, TTLCache

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
"""TTL of what was read of open buckets; this process's own part is in memory besides."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Question:
    """What it is about and when, what is in memory of it, what of the past was dropped, and one view of the
    store (None: there is none)."""

    scope: Scope
    now: float
    memory: Mapping[Bucket, Pooled]
    in_memory: frozenset[tuple[Bucket, str]]
    dropped: Dropped
    view: StoreView | None

    def resolution_at(self, since: float) -> int:
        """Seconds of the finest buckets that are kept of everything from `since` on."""
        return resolution_kept(since, self.now, self.dropped)

    def is_closed(self, step: Bucket) -> bool:
        """Whether the store has all of it, and will not change it any more."""
        return (
            self.view is not None
            and step.end <= self.now - GRACE_S
            and not any(step.start <= bucket.start and bucket.end <= step.end for bucket in self.memory)
        )

    def read(
        self, buckets: Iterable[Bucket], without: frozenset[tuple[Bucket, str]] = frozenset()
    ) -> dict[Bucket, Pooled]:
        """What the store has in these buckets, except for the rows of these buckets and instances."""
        read: dict[Bucket, Pooled] = {}
        if self.view is not None:
            for run in consecutive(buckets):
                read |= self.view.read(self.scope, run[0], run[-1].end, without)
        return read

    def read_figures(self, steps: Iterable[Bucket]) -> dict[Bucket, Figures]:
        """The figures of those steps that have them in a row per model and stage beside the histograms."""
        figures: dict[Bucket, Figures] = {}
        if self.view is not None:
            for run in consecutive(step for step in steps if step.resolution_s in (HOUR_S, DAY_S)):
                read = self.view.read_figures(self.scope, run[0], run[-1].end)
                figures |= {
                    step: known for step in run if (known := read.get(step, Figures({}, {}))) is not None
                }
        return figures


class LatencyCache:
    """Remembers closed buckets, sums of closed buckets, and figures of closed steps. Not thread-safe."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._revision: Hashable = None
        # Weights count distributions, about 1 kB each, and summaries, about 0.3 kB.
        self._buckets: LRUCache[tuple[Scope, Bucket], Pooled] = _weighted(
            30_000, lambda pooled: len(pooled.distributions)
        )
        self._sums: LRUCache[tuple[Scope, tuple[Bucket, ...]], tuple[Pooled, Figures]] = _weighted(
            2_000, lambda sums: len(sums[0].distributions)
        )
        self._steps: LRUCache[tuple[Scope, Bucket], Figures] = _weighted(
            40_000, lambda figures: len(figures.summaries)
        )
        self._open: TTLCache[Hashable, Mapping[Bucket, Pooled]] = TTLCache(64, OPEN_FOR_S)

    @contextlib.contextmanager
    def ask(self, scope: Scope) -> Iterator[Question]:
        """A question about memory and store; raises StorageUnavailable when that cannot be read."""
        store = self._recorder.store
        if store is None:
            yield self.ask_memory(scope)
            return
        now, memory = self._recorder.now(), self._memory(scope)  # in this order, and before the store
        dropped, revision = self._recorder.dropped(), self._recorder.history_revision()
        with store.view() as view:
            if (revision, view.late_writes) != self._revision:
                self._revision = revision, view.late_writes
                for cache in (self._buckets, self._sums, self._steps, self._open):
                    cache.clear()
            yield Question(scope, now, *memory, Dropped(*map(max, dropped, view.dropped)), view)

    def ask_memory(self, scope: Scope) -> Question:
        """A question about memory alone."""
        now, memory = self._recorder.now(), self._memory(scope)
        return Question(scope, now, *memory, self._recorder.dropped(), None)

    def _memory(self, scope: Scope) -> tuple[Mapping[Bucket, Pooled], frozenset[tuple[Bucket, str]]]:
        parts = self._recorder.memory()
        pooled: defaultdict[Bucket, list[Pooled]] = defaultdict(list)
        for part in parts:
            pooled[part.bucket].append(part.pooled(scope))
        in_memory = frozenset((part.bucket, part.instance) for part in parts)
        return {bucket: combine(same) for bucket, same in pooled.items()}, in_memory

    def figures(self, question: Question, start: int, end: float) -> Figures:
        """The figures of what was recorded from `start` to `end`, which may be infinite."""
        closed, closed_figures, fresh = self._parts(question, start, end)
        # Only what changed is worked out anew; most series of most answers did not.
        touched = closed.distributions.keys() & fresh.distributions.keys()
        changed = combine(
            [Pooled({key: closed.distributions[key] for key in touched}, closed.errors), fresh]
        ).figures()
        return Figures({**closed_figures.summaries, **changed.summaries}, changed.errors)

    def pooled(self, question: Question, start: int) -> Pooled:
        """The distributions of what was recorded from `start` on."""
        closed, _, fresh = self._parts(question, start, math.inf)
        return combine([closed, fresh])

    def _parts(self, question: Question, start: int, end: float) -> tuple[Pooled, Figures, Pooled]:
        """What closed buckets add up to, with its figures, and what open ones and memory add to that."""
        buckets = cover(start, min(end, math.floor(question.now) + 1))  # this second is in it
        closed = tuple(bucket for bucket in buckets if question.is_closed(bucket))
        is_open = [bucket for bucket in buckets if not question.is_closed(bucket)]
        fresh = combine(
            [
                *self._read_open(question, is_open).values(),
                *(question.memory[bucket] for bucket in is_open if bucket in question.memory),
            ]
        )
        return *self._sum(question, closed), fresh

    def step(self, question: Question, step: Bucket) -> Figures | None:
        """The figures of a closed step that `sum_up` has seen to; None for an open one."""
        return self._steps.get((question.scope, step)) if question.is_closed(step) else None

    def sum_up(self, question: Question, steps: Sequence[Bucket]) -> None:
        """Work the figures of closed steps out, as far as they are not known."""
        missing = [
            step for step in steps if (question.scope, step) not in self._steps and question.is_closed(step)
        ]
        known = question.read_figures(missing)
        for run in consecutive(step for step in missing if step not in known):
            # In portions, because the distributions of a long run by minutes take much memory.
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
                # Hours and days change once an hour, so their sum is worth remembering by itself.
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
        # All taken before anything is remembered: that may drop what was there.
        pooled = [read[bucket] if bucket in read else self._buckets[scope, bucket] for bucket in buckets]
        for bucket, part in read.items():
            self._buckets[scope, bucket] = part
        return pooled

    def _read_open(self, question: Question, buckets: list[Bucket]) -> Mapping[Bucket, Pooled]:
        """What the store has of open buckets and is not in memory."""
        key = (question.scope, tuple(buckets), question.in_memory)
        known = self._open.get(key)
        if known is None:
            known = self._open[key] = question.read(buckets, question.in_memory)
        return known


def _weighted(limit: int, length: Callable[[V], int]) -> LRUCache[K, V]:
    # One that weighs more than the limit by itself is the only one then, not an error.
    return LRUCache(limit, lambda value: min(limit, 1 + length(value)))
