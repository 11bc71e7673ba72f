"""Durations and errors in memory, flushed to the store about every second and when the service stops."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import structlog

from service.errors import StorageUnavailable
from service.latency.prometheus import Metrics
from service.latency.recorded import DAY_S, HOUR_S, MINUTE_S, Bucket, ErrorSeries, Recorded, bucket_of
from service.latency.recording import Recording
from service.latency.stages import Durations, Regime
from service.latency.store import LatencyStore

FLUSH_EVERY_S = 1.0

HOURLY_AFTER_S = HOUR_S
"""Minutes that could not be saved for this long are put together to hours, to bound the memory they take."""

DAILY_AFTER_S = 5 * DAY_S
"""And hours to days, while the store could still roll up the hours of that day."""

_log = structlog.get_logger(__name__)


class Recorder:
    """The one place that takes durations and errors; thread safe.

    Each process has an instance id of its own, and every row of the store belongs to one instance. A clock
    that is set back would make this process write a minute twice, the second time over the first: then it
    goes on under a new instance id.
    """

    def __init__(
        self, store: LatencyStore | None, metrics: Metrics, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Without a store everything stays in memory until the process ends."""
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()  # guards all that follows; never held while the store is at work
        self._instance = uuid.uuid4().hex
        self._instance_until = 0  # end of the last bucket that this instance recorded into
        self._open: Recording | None = None
        self._closed: list[Recording] = []
        self._revision = 0
        self._flushing = threading.Lock()
        self._problem: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def record(self, model: str, regime: Regime, durations: Durations) -> None:
        """Take the durations of one run; the model's name must have been validated."""
        now = self._clock()
        with self._lock:
            self._recording(now).record(model, regime, durations)
            self._revision += 1
        self._metrics.observe(model, regime, durations)

    def record_error(self, model: str | None, regime: Regime, slug: str) -> None:
        """Take one failed request; `model` is None when it failed before a model was known."""
        now = self._clock()
        with self._lock:
            self._recording(now).record_error(ErrorSeries(regime, model or "", slug))
            self._revision += 1
        self._metrics.count_error(model, slug)

    @property
    def problem(self) -> str | None:
        """Why latencies cannot be kept at the moment, in words for a client; None when they can."""
        return self._problem

    @property
    def store(self) -> LatencyStore | None:
        """Where they are kept."""
        return self._store

    def now(self) -> float:
        """Seconds since 1970 by the clock that stamps what is recorded."""
        return self._clock()

    def revision(self) -> int:
        """A number that changes whenever `memory` does."""
        with self._lock:
            return self._revision

    def memory(self, regime: Regime | None = None) -> list[Recorded]:
        """A copy of what may not be in the store yet, of one regime or all. To merge it with the store, read
        this first: what is dropped here in between is in the store, and what is in both has the same instance
        and bucket, with more in this one."""
        with self._lock:
            return [recording.contents(regime) for recording in self._recordings()]

    def start(self) -> None:
        """Open the store, so that `problem` is known, and begin to flush."""
        if self._thread is not None:
            return
        self.flush()
        self._thread = threading.Thread(target=self._run, name="weighin-flush", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop flushing, after a last time."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self.flush()

    def flush(self) -> None:
        """Save what is not saved. What cannot be saved stays in memory, and `problem` says why."""
        with self._flushing:
            try:
                if self._store is not None:
                    self._save(self._store)
                    self._problem = None
            except StorageUnavailable as error:
                self._set_problem(error.detail)
            except Exception:
                # Nothing may end the flush thread: the next second may do better.
                _log.exception("latencies could not be saved")
                self._set_problem("latencies cannot be saved: unexpected failure, see the log")
            self._condense()

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_EVERY_S):
            self.flush()

    def _recording(self, now: float) -> Recording:
        """The recording that holds this moment; the caller holds the lock."""
        current = self._open
        if current is not None:
            if current.bucket.start <= now < current.bucket.end:
                return current
            self._closed.append(current)
        bucket = bucket_of(MINUTE_S, now) if self._store is None else self._store.bucket_for(now)
        if bucket.start < self._instance_until:
            # The clock was set back, and this instance may have written this bucket before.
            self._instance = uuid.uuid4().hex
        self._instance_until = bucket.end
        self._open = Recording(bucket, self._instance)
        return self._open

    def _recordings(self) -> list[Recording]:
        return self._closed if self._open is None else [*self._closed, self._open]

    def _save(self, store: LatencyStore) -> None:
        with self._lock:
            self._close_if_over()
            closed = self._closed[:]
            recordings = self._recordings()[:]
        if store.ensure_open():
            with self._lock:
                for recording in recordings:
                    recording.mark_unsaved()
        changes = [(recording, self._changes(recording)) for recording in recordings]
        store.write([recorded for _, recorded in changes if recorded is not None])
        with self._lock:
            for recording, recorded in changes:
                if recorded is not None:
                    recording.mark_saved(recorded)
            if closed:
                # Those that were closed before they were copied; one closed since waits for the next flush.
                self._closed = [recording for recording in self._closed if recording not in closed]
                self._revision += 1
            unsaved_from = min((recording.bucket.start for recording in self._recordings()), default=None)
        store.maintain(self._clock(), unsaved_from)

    def _close_if_over(self) -> None:
        if self._open is not None and self._clock() >= self._open.bucket.end:
            self._closed.append(self._open)
            self._open = None

    def _changes(self, recording: Recording) -> Recorded | None:
        distributions = recording.frozen_changes()
        with self._lock:
            groups = recording.groups()
            errors = recording.error_changes()
        for group in groups:
            with self._lock:  # anew for each: a copy of all would make requests wait for a millisecond
                distributions |= recording.changes(group)
        if not distributions and not errors:
            return None
        return Recorded(recording.bucket, recording.instance, distributions, errors)

    def _condense(self) -> None:
        """Make what has to stay in memory small: sparse, and after an hour by hours, after days by days."""
        with self._lock:
            self._close_if_over()
            now = self._clock()
            condensed: dict[tuple[Bucket, str], Recording] = {}
            # The coarse first, so that what is condensed now joins what was condensed before.
            for recording in sorted(self._closed, key=lambda each: -each.bucket.resolution_s):
                recording.freeze()
                age = now - recording.bucket.start
                resolution_s = DAY_S if age > DAILY_AFTER_S else HOUR_S if age > HOURLY_AFTER_S else MINUTE_S
                bucket = recording.bucket
                # What is partly saved must be saved again in the same bucket, or it would count twice.
                if resolution_s > bucket.resolution_s and not recording.partly_saved:
                    bucket = bucket_of(resolution_s, bucket.start)
                key = (bucket, recording.instance)
                if key not in condensed and bucket == recording.bucket:
                    condensed[key] = recording
                else:
                    condensed.setdefault(key, Recording(*key)).absorb(recording)
            self._closed = list(condensed.values())

    def _set_problem(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("latencies cannot be saved; they are held in memory", reason=problem)
        self._problem = problem
