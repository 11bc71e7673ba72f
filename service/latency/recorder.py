"""Record durations and errors: requests queue them, and a thread sums them up and saves them every second."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from service.errors import StorageUnavailable
from service.latency.buckets import DAY_S, GRACE_S, HOUR_S, MINUTE_S, Bucket, Dropped, bucket_of
from service.latency.histogram import Distribution, merge
from service.latency.series import ErrorSeries, Part, Series
from service.latency.stages import Durations, Regime

if TYPE_CHECKING:  # some commands need neither database nor metrics, and importing these takes long
    from service.latency.prometheus import Metrics
    from service.latency.store import LatencyStore

FLUSH_EVERY_S = 1.0

FLUSH_RARELY_S = 60.0
"""Maximum seconds from a failed flush to the next flush.

The wait is 20 times the CPU time of the failed flush, but at least FLUSH_EVERY_S.
"""

LOOK_EVERY_S = 0.1
"""Seconds between two checks of the queue's length, from one flush to the next."""

ADD_UP_FROM = 500
"""Queue length at which runs and errors are added to the buckets before the next flush, to bound memory."""

QUEUE_LIMIT = 20_000
"""Queue length at which the thread that records a run also adds the queue's content to the buckets.

The queue becomes so long, for example, if no thread flushes.
"""

LATE_S = 5
"""Seconds after its end during which a bucket accepts runs.

Runs are queued shortly after their timestamp. If the clock is set back by less than this, the recorder
ignores it.
"""

_IN_MEMORY_S = {MINUTE_S: HOUR_S, HOUR_S: 5 * DAY_S, DAY_S: math.inf}
"""By resolution, the seconds from the start of a bucket for which it stays in memory if it is not saved.

After this time, its data are only in the longer bucket in memory that contains it. Unsaved days stay without
limit.
"""

_log = structlog.get_logger(__name__)


class Recorder:
    """Records all durations and errors. An object is thread-safe.

    Each run is added to the minute, the hour and the day in which it ended, and every flush saves all three
    buckets. Each process has an id of its own, the instance id, and every row of the store has the instance
    id of the process that wrote it. After the clock is set back, the process would overwrite buckets that it
    has written before, so it continues under a new instance id.
    """

    def __init__(
        self, store: LatencyStore | None, metrics: Metrics, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`store`: if it is None, everything stays in memory until the process ends."""
        self._store = store
        self._metrics = metrics
        self._clock = clock
        # Time, regime, model, version, runtime, and durations or the slug of an error.
        self._queue: deque[tuple[float, Regime, str, str, str, Durations | str]] = deque()
        self._lock = threading.Lock()  # of all fields below; not held while recording or while saving
        self._instance = uuid.uuid4().hex
        self._instance_from = 0  # buckets before this were dropped from memory and may be in the store
        self._latest = 0.0  # latest result of `now`
        self._set_back = 0  # how often the clock was set back
        self._held: dict[tuple[Bucket, str], _Held] = {}
        self._lost_until = {MINUTE_S: 0, HOUR_S: 0}  # end of buckets that were dropped without being saved
        self._revision = 0
        self._flushing = threading.Lock()
        self._problem: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        metrics.before_collecting(self.add_up)

    def record(
        self, model: str, regime: Regime, durations: Durations, version: str = "", runtime: str = ""
    ) -> None:
        """Record the durations of one run. The mapping `durations` must not change afterwards.

        `model`: a validated name. `version`: SHA-256 of the model's file. `runtime`: `Session.label` of the
        session that ran the model. Version and runtime are empty if they are unknown.
        """
        self._take(regime, model, version, runtime, durations)

    def record_error(self, model: str | None, regime: Regime, slug: str) -> None:
        """Record a failed request. `model` is None if the request failed before a model was known."""
        self._take(regime, model or "", "", "", slug)

    def _take(self, regime: Regime, model: str, version: str, runtime: str, what: Durations | str) -> None:
        self._queue.append((self._clock(), regime, model, version, runtime, what))
        if len(self._queue) >= QUEUE_LIMIT:
            self.add_up()

    @property
    def problem(self) -> str | None:
        """Reason, for clients, why latencies cannot be saved now. None means that they can be saved."""
        return self._problem

    @property
    def store(self) -> LatencyStore | None:
        """Store of latencies; None if everything stays in memory."""
        return self._store

    @property
    def machine(self) -> str:
        """Name of this machine, which is stored with its latencies; empty if unknown."""
        return "" if self._store is None else self._store.machine

    def now(self) -> float:
        """Return seconds since 1970 by the clock that timestamps runs."""
        moment = self._clock()
        with self._lock:
            if moment < self._latest - LATE_S:
                self._set_back += 1
                self._latest = moment
            self._latest = max(self._latest, moment)
        return moment

    def revision(self) -> int:
        """Return a number that changes whenever `memory` changes."""
        self.add_up()
        return self._revision

    def history_revision(self) -> tuple[int, int]:
        """Return a value that changes when past buckets may have changed.

        It changes after the store is opened again, and when the clock is found to have been set back.
        """
        return self._set_back, 0 if self._store is None else self._store.opened_times

    def dropped(self) -> Dropped:
        """Return the times before which minutes and hours were dropped from memory without being saved.

        Both times are 0 if nothing was dropped, or if the store has noted the times.
        """
        with self._lock:
            return Dropped(*self._lost_until.values())

    def memory(self) -> list[Part]:
        """Return a copy of the data that may not be in the store yet: all minutes, and ended hours and days.

        To merge it with the store, read the clock, then this copy, then the store. In this order no bucket is
        missed: a bucket that leaves memory after the copy was made is in the store when the store is read. If
        a bucket is both in the copy and in the store, it has the same instance id in both, so that they can
        be matched. The copy has at least as much data of the bucket as the store.
        """
        self.add_up()
        with self._lock:
            now = self._clock()
            return [
                held.contents()
                for (bucket, _), held in self._held.items()
                if bucket.resolution_s == MINUTE_S or bucket.end <= now + 1
            ]

    def add_up(self) -> None:
        """Add queued runs and errors to the buckets in memory and to the metrics."""
        with self._lock:
            runs: defaultdict[tuple[int, Series], list[int]] = defaultdict(list)
            failures: Counter[tuple[int, ErrorSeries]] = Counter()
            for _ in range(taken := len(self._queue)):
                moment, regime, model, version, runtime, what = self._queue.popleft()
                minute = int(moment // MINUTE_S) * MINUTE_S
                if isinstance(what, str):
                    failures[minute, ErrorSeries(regime, model, version, runtime, what)] += 1
                else:
                    for stage, duration_ns in what.items():
                        runs[minute, Series(regime, model, version, runtime, stage)].append(duration_ns)
            for (minute, series), durations in runs.items():
                distribution = Distribution.of(durations)
                for held in self._buckets(minute):
                    held.add(series, distribution)
                self._metrics.observe(series.model, series.regime, series.stage, durations)
            for (minute, error), count in failures.items():
                for held in self._buckets(minute):
                    held.errors[error] = held.errors.get(error, 0) + count
                self._metrics.count_error(error.model, error.slug, count)
            self._revision += taken

    def _buckets(self, minute: int) -> list[_Held]:
        """Return the minute, the hour and the day in memory to which runs of this minute are added.

        The caller must hold the lock.
        """
        buckets = [bucket_of(resolution_s, minute) for resolution_s in _IN_MEMORY_S]
        if any(
            bucket.start < self._instance_from and (bucket, self._instance) not in self._held
            for bucket in buckets
        ):
            # The clock was set back: this instance may have written this bucket before.
            self._instance = uuid.uuid4().hex
            self._instance_from = 0
            self._set_back += 1
        keys = [(bucket, self._instance) for bucket in buckets]
        return [self._held.setdefault(key, _Held(*key)) for key in keys]

    def start(self) -> None:
        """Open the store, so that `problem` is known, and start the flush thread."""
        if self._thread is not None:
            return
        self.flush()
        self._thread = threading.Thread(target=self._run, name="weighin-flush", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the flush thread, and flush once more."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self.flush()

    def _run(self) -> None:
        flushed, wait_s = time.monotonic(), FLUSH_EVERY_S
        while not self._stop.wait(LOOK_EVERY_S):
            if time.monotonic() - flushed >= wait_s:
                began = time.thread_time()
                self.flush()
                wait_s = FLUSH_EVERY_S
                if self._problem is not None:
                    wait_s = min(max(wait_s, 20 * (time.thread_time() - began)), FLUSH_RARELY_S)
                flushed = time.monotonic()
            elif len(self._queue) >= ADD_UP_FROM:
                self.add_up()

    def flush(self) -> None:
        """Save unsaved data. If this fails, the data stay in memory, and `problem` has the reason."""
        with self._flushing:
            now = self.now()  # runs that are queued later have later timestamps
            saved = False
            try:
                self.add_up()
                if self._store is not None:
                    self._save(self._store)
                    self._problem = None
                    saved = True
            except StorageUnavailable as error:
                self._set_problem(error.detail)
            except Exception:
                # The flush thread must not end, because the next flush may succeed.
                _log.exception("latencies could not be saved")
                self._set_problem("latencies cannot be saved: unexpected error (see the log)")
            self._drop_from_memory(now, saved=saved)

    def _save(self, store: LatencyStore) -> None:
        opened_now = store.ensure_open()
        with self._lock:
            if opened_now:  # saved data may be lost with the previous database
                for held in self._held.values():
                    held.saved.clear()
            changes = [(held, held.changes()) for held in self._held.values()]
        parts = [part for _, part in changes if part.distributions or part.errors]
        # Other instances treat a bucket as closed after GRACE_S. Use half of it here, because clocks differ.
        is_late = any(part.bucket.end < self._clock() - GRACE_S / 2 for part in parts)
        store.write(parts, late=is_late, dropped=self.dropped())
        with self._lock:
            if parts:
                self._lost_until = dict.fromkeys(self._lost_until, 0)
            for held, part in changes:
                held.mark_saved(part)
        store.maintain(self._clock())

    def _drop_from_memory(self, now: float, *, saved: bool) -> None:
        """Drop the buckets that are over and saved, and those that are too old to wait until they are saved.

        A bucket is too old after the time in `_IN_MEMORY_S`. Its data are then still in a longer bucket,
        which stays in memory. `saved`: whether the flush has succeeded.
        """
        with self._lock:
            for (bucket, instance), held in list(self._held.items()):
                changes = held.changes()
                is_changed = bool(changes.distributions or changes.errors)
                is_saved = saved and not is_changed
                is_over = now >= bucket.end + LATE_S or instance != self._instance
                is_too_old = now - bucket.start > _IN_MEMORY_S[bucket.resolution_s]
                if (is_saved and is_over) or is_too_old:
                    del self._held[bucket, instance]
                    if is_changed:
                        lost_until = max(self._lost_until[bucket.resolution_s], bucket.end)
                        self._lost_until[bucket.resolution_s] = lost_until
                    self._revision += 1
                    if instance == self._instance:
                        self._instance_from = max(self._instance_from, bucket.end)

    def _set_problem(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("latencies cannot be saved and stay in memory", reason=problem)
        self._problem = problem


class _Held:
    """A bucket in memory with the data that this process has recorded. Not thread-safe.

    `saved`: for each distribution and error count, how many samples or errors are in the store.
    """

    __slots__ = ("_added", "bucket", "distributions", "errors", "instance", "saved")

    def __init__(self, bucket: Bucket, instance: str) -> None:
        self.bucket = bucket
        self.instance = instance
        self.distributions: dict[Series, Distribution] = {}
        self._added: defaultdict[Series, list[Distribution]] = defaultdict(list)
        self.errors: dict[ErrorSeries, int] = {}
        self.saved: dict[Series | ErrorSeries, int] = {}

    def add(self, series: Series, distribution: Distribution) -> None:
        self._added[series].append(distribution)

    def _merge_added(self) -> None:
        # Merge lazily: hours and days are read when they are saved, minutes also for every query.
        for series, added in self._added.items():
            known = self.distributions.get(series)
            self.distributions[series] = merge(added if known is None else [known, *added])
        self._added.clear()

    def contents(self) -> Part:
        self._merge_added()
        return Part(self.bucket, self.instance, dict(self.distributions), dict(self.errors))

    def changes(self) -> Part:
        """Return the distributions and error counts that are not completely saved."""
        self._merge_added()
        return Part(
            self.bucket,
            self.instance,
            {key: part for key, part in self.distributions.items() if part.count != self.saved.get(key)},
            {key: count for key, count in self.errors.items() if count != self.saved.get(key)},
        )

    def mark_saved(self, part: Part) -> None:
        self.saved |= {series: distribution.count for series, distribution in part.distributions.items()}
        self.saved.update(part.errors.items())
