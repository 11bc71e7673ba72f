"""What buckets add up to: closed ones are read and merged once, open ones for every question."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from service.latency.bounded_cache import BoundedCache
from service.latency.cover import cover, late, resolution_kept, stretches
from service.latency.figures import Figures, Merged, as_figures, combine, figures, of_one_regime
from service.latency.recorded import DAY_S, HOUR_S, MERGED, MINUTE_S, Bucket, Recorded, Scope, Told, bucket_of
from service.latency.recorder import Recorder
from service.latency.rollup import Progress
from service.latency.store import GRACE_S, Reading

TAIL_FOR_S = 1.0
"""For so long the open buckets of the store are not read again; this process's own are in memory besides."""


@dataclass(frozen=True, slots=True)
class Question:
    """What it is about and when, what is in memory of it, and one view of the store (None: there is none)."""

    scope: Scope
    now: float
    memory: list[Recorded]
    view: Reading | None

    @property
    def progress(self) -> Progress:
        """How far the store has summed up."""
        return Progress() if self.view is None else self.view.progress

    def resolution_at(self, since: float) -> int:
        """Seconds of the finest buckets that are kept of everything from `since` on."""
        return resolution_kept(since, self.now, self.progress)

    def is_closed(self, bucket: Bucket) -> bool:
        """Whether the store has all of it, and will not change it any more."""
        return bucket.end <= self.now - GRACE_S and not any(
            bucket.start <= part.bucket.start < bucket.end for part in self.memory
        )

    def read(self, buckets: Iterable[Bucket]) -> list[Recorded]:
        """What the store has in these buckets."""
        if self.view is None:
            return []
        return [
            part
            for stretch in stretches(buckets)
            for part in self.view.read(self.scope, stretch[0], stretch[-1].end)
        ]

    def told(self, steps: Sequence[Bucket]) -> dict[Bucket, Figures]:
        """The figures of those steps that are summed up in a row per series, without reading histograms."""
        if self.view is None:
            return {}
        summed_until = {HOUR_S: self.progress.hours_until, DAY_S: self.progress.days_until}
        whole = [step for step in steps if step.end <= summed_until.get(step.resolution_s, 0)]
        found: dict[Bucket, Figures] = {}
        for stretch in stretches(whole):
            told = self.view.read_summaries(self.scope, stretch[0], stretch[-1].end)
            found |= {
                step: as_figures(each)
                for step in stretch
                if (each := told.get(step.start, Told({}, {}))) is not None
            }
        return found

    def read_parts(self, start: int, end: float) -> list[Recorded]:
        """What single instances have in hours and days that are not summed up."""
        return [part for part in self.read(late(start, end, self.progress)) if part.instance != MERGED]


class Buckets:
    """Remembers distributions of closed buckets, figures of closed steps, and sums of runs of closed buckets.

    Not thread safe.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._rewritten = -1
        # Weights count distributions, about 1 kB each, and summaries, about 0.3 kB.
        self._merged: BoundedCache[tuple[Scope, Bucket], Merged] = BoundedCache(30_000)
        self._sums: BoundedCache[tuple[Scope, tuple[Bucket, ...]], tuple[Merged, Figures]] = BoundedCache(
            2_000
        )
        self._steps: BoundedCache[tuple[Scope, Bucket], Figures] = BoundedCache(40_000)
        self._tails: dict[Hashable, tuple[float, list[Recorded]]] = {}

    @contextlib.contextmanager
    def ask(self, scope: Scope) -> Iterator[Question]:
        """A question about memory and store; raises StorageUnavailable when that cannot be read."""
        memory = self._memory(scope)  # before the store, as the recorder says
        store = self._recorder.store
        if store is None:
            yield Question(scope, self._recorder.now(), memory, None)
            return
        if store.rewritten != self._rewritten:
            self._rewritten = store.rewritten
            self._forget()
        with store.view() as view:
            yield Question(scope, self._recorder.now(), memory, view)

    def ask_memory(self, scope: Scope) -> Question:
        """A question about memory alone."""
        return Question(scope, self._recorder.now(), self._memory(scope), None)

    def figures(self, question: Question, start: int, end: float) -> Figures:
        """The figures of what was recorded from `start` to `end`, which may be infinite."""
        base, base_figures, fresh = self._parts(question, start, end)
        # Only what changed is worked out anew; most series of most answers did not.
        touched = base.distributions.keys() & fresh.distributions.keys()
        changed = combine(
            [Merged({series: base.distributions[series] for series in touched}, base.errors), fresh]
        )
        return Figures({**base_figures.summaries, **figures(changed).summaries}, changed.errors)

    def merged(self, question: Question, start: int) -> Merged:
        """The distributions of what was recorded from `start` on."""
        base, _, fresh = self._parts(question, start, math.inf)
        return combine([base, fresh])

    def _parts(self, question: Question, start: int, end: float) -> tuple[Merged, Figures, Merged]:
        """What closed buckets add up to, with its figures, and what open ones and memory add to that."""
        until = min(end, math.floor(question.now) + 1)  # this second is in it
        buckets = cover(start, until, question.progress) if question.view else []
        closed = tuple(bucket for bucket in buckets if question.is_closed(bucket))
        base, base_figures = self._sum(question, closed)
        known_closed = set(closed)
        open_buckets = [bucket for bucket in buckets if bucket not in known_closed]
        fresh = combine(
            of_one_regime(part)
            for part in [
                *self._tail(question, open_buckets, start, until),
                *(part for part in question.memory if start <= part.bucket.start < end),
            ]
        )
        return base, base_figures, fresh

    def step(self, question: Question, step: Bucket) -> Figures | None:
        """The figures of a closed step that `sum_up` has seen to; None for an open one."""
        return self._steps.get((question.scope, step))

    def sum_up(self, question: Question, steps: Sequence[Bucket]) -> None:
        """Work the figures of closed steps out, as far as they are not known."""
        if question.view is None:
            return
        missing = [
            step for step in steps if (question.scope, step) not in self._steps and question.is_closed(step)
        ]
        for step, found in question.told(missing).items():
            self._put(question, step, found)
        for run in stretches(step for step in missing if (question.scope, step) not in self._steps):
            # In portions, because the distributions of a long run by minutes take much memory.
            for portion in (run[at : at + 64] for at in range(0, len(run), 64)):
                start, end, step_s = portion[0].start, portion[-1].end, portion[0].resolution_s
                parts: dict[Bucket, list[Recorded]] = {step: [] for step in portion}
                for part in [
                    *question.read(cover(start, end, question.progress, coarsest_s=step_s)),
                    *question.read_parts(start, end),
                ]:
                    parts[bucket_of(step_s, part.bucket.start)].append(part)
                for step, recorded in parts.items():
                    self._put(question, step, figures(combine(of_one_regime(part) for part in recorded)))

    def _put(self, question: Question, step: Bucket, found: Figures) -> None:
        self._steps.put((question.scope, step), found, 1 + len(found.summaries))

    def _sum(self, question: Question, closed: tuple[Bucket, ...]) -> tuple[Merged, Figures]:
        key = (question.scope, closed)
        found = self._sums.get(key)
        if found is None:
            coarse = tuple(bucket for bucket in closed if bucket.resolution_s != MINUTE_S)
            if coarse and len(coarse) < len(closed):
                # Hours and days change once an hour, so their sum is worth remembering by itself.
                minutes = [bucket for bucket in closed if bucket.resolution_s == MINUTE_S]
                merged = combine([self._sum(question, coarse)[0], *self._closed(question, minutes)])
            else:
                merged = combine(self._closed(question, closed))
            found = (merged, figures(merged))
            self._sums.put(key, found, 1 + len(merged.distributions))
        return found

    def _closed(self, question: Question, buckets: Sequence[Bucket]) -> list[Merged]:
        scope = question.scope
        missing = [bucket for bucket in buckets if (scope, bucket) not in self._merged]
        parts: dict[Bucket, list[Recorded]] = {bucket: [] for bucket in missing}
        for part in question.read(missing):
            parts[part.bucket].append(part)
        loaded = {
            bucket: combine(of_one_regime(part) for part in recorded) for bucket, recorded in parts.items()
        }
        # Both taken before anything is put: that may drop what was there.
        found = [loaded.get(bucket) or self._merged.get((scope, bucket)) or Merged() for bucket in buckets]
        for bucket, merged in loaded.items():
            self._merged.put((scope, bucket), merged, 1 + len(merged.distributions))
        return found

    def _tail(self, question: Question, buckets: list[Bucket], start: int, end: float) -> list[Recorded]:
        """What the store has of open buckets and is not in memory."""
        in_memory = frozenset((part.bucket, part.instance) for part in question.memory)
        key = (question.scope, start, tuple(buckets), in_memory)
        until, found = self._tails.get(key, (-math.inf, []))
        if time.monotonic() >= until:
            parts = question.read(buckets) + question.read_parts(start, end)
            found = [part for part in parts if (part.bucket, part.instance) not in in_memory]
            if len(self._tails) >= 64:
                self._tails.clear()
            self._tails[key] = (time.monotonic() + TAIL_FOR_S, found)
        return found

    def _memory(self, scope: Scope) -> list[Recorded]:
        return [part.within(scope) for part in self._recorder.memory(scope.regime)]

    def _forget(self) -> None:
        for cache in (self._merged, self._sums, self._steps):
            cache.clear()
        self._tails.clear()
