"""Run benchmarks as jobs of the service: one at a time on a machine, each in a separate process.

Services that share a database show each other's benchmarks and can cancel them. The service that runs a
benchmark stores its progress once a second, and reads whether a client has asked to cancel it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog
from cachetools import TTLCache
from pydantic import TypeAdapter

from service.bench.archive import new_id
from service.bench.bundle import Bundle, Flag
from service.bench.bundle_file import from_json, to_json
from service.bench.fingerprint import Host, this_host
from service.bench.job import BundleReport, FailureReport, JobConfig, JobReport, ProgressReport
from service.bench.job_process import JobProcess
from service.bench.judge.summary import recorder_samples
from service.bench.measure.plan import Repetitions, Request, make_plan
from service.bench.measure.progress import Progress
from service.bench.store import (
    CANCELLED,
    OVERTAKEN,
    BenchmarkRow,
    BenchmarkState,
    BenchmarkStore,
    cancelled_detail,
)
from service.errors import BenchmarkEnded, Busy, DatabaseUnreachable, StorageUnavailable, UnknownBenchmark
from service.inference.pool import CorePool
from service.inference.registry import Registry
from service.latency.recorder import Recorder

HEARTBEAT_S = 1.0
"""Seconds between heartbeats.

Each heartbeat stores the progress in a shared database, and reads whether the benchmark is to stop.
"""
FOLLOW_S = 0.5
"""Seconds between reads of a benchmark that another process runs.

One read serves all clients that follow the benchmark.
"""
_RETRY_S = 1.0
"""Seconds between attempts to store the end of a benchmark while the database cannot be reached."""

_PROGRESS = TypeAdapter(Progress)  # ignores fields that newer versions may have stored

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """An object holds what is known of a benchmark at one moment.

    `progress` is None before the first report. `cancelling` says that the benchmark was asked to stop, but
    still runs.
    """

    row: BenchmarkRow
    progress: Progress | None = None
    cancelling: bool = False

    @classmethod
    def stored(cls, row: BenchmarkRow) -> Benchmark:
        """Return what the database has on a benchmark."""
        progress = None if row.progress is None else _PROGRESS.validate_json(row.progress)
        return cls(row, progress, row.cancelling)

    @property
    def ended(self) -> bool:
        """Whether the benchmark is done, cancelled, failed or interrupted."""
        return self.row.state != "running"


class _Running:
    """An object stands for the benchmark that this service runs now.

    `jobs_before` is how many jobs, each a part of a request, the pool had begun when the benchmark started.
    `process_ended` says that the benchmark's process has ended; the end may not be stored yet.
    """

    def __init__(self, row: BenchmarkRow, process: JobProcess, jobs_before: int) -> None:
        self.row = row
        self.process = process
        self.jobs_before = jobs_before
        self.progress: Progress | None = None
        self.cancel_reason: str | None = None
        self.process_ended = False

    @property
    def cancelled(self) -> bool:
        return self.cancel_reason is not None


class BenchmarkJobs:
    """Starts, watches and cancels benchmarks. Call all methods from the event loop's thread."""

    def __init__(
        self,
        registry: Registry,
        pool: CorePool,
        recorder: Recorder,
        store: BenchmarkStore,
        model_dirs: tuple[Path, ...],
        *,
        repetitions: Repetitions | None = None,
        demo_runs: Callable[[], bool] = lambda: False,
        host: Host | None = None,
    ) -> None:
        """Prepare to run benchmarks; none is started.

        If `repetitions` is given, it is used instead of the repetitions of the profiles. `demo_runs` returns
        whether the demo runs. `host` is the machine that is measured; None means this machine.
        """
        self._registry = registry
        self._pool = pool
        self._recorder = recorder
        self._store = store
        self._model_dirs = tuple(folder.absolute() for folder in model_dirs)
        self._repetitions = repetitions
        self._demo_runs = demo_runs
        self._host = this_host() if host is None else host
        self._starting = False
        self._running: _Running | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._stopping = False
        self._followed: TTLCache[str, asyncio.Task[Benchmark]] = TTLCache(maxsize=256, ttl=0.9 * FOLLOW_S)

    @property
    def running(self) -> bool:
        """Whether a benchmark of this process is starting or runs."""
        return self._starting or self._running is not None

    async def open(self) -> None:
        """If a benchmark is stored as running but its process has ended, store it as interrupted.

        Nothing happens if the database cannot be written.
        """
        with contextlib.suppress(StorageUnavailable):
            await asyncio.to_thread(self._store.interrupt_lost, time.time())

    async def start(self, request: Request) -> Benchmark:
        """Start a benchmark.

        Raises Busy while the demo or another benchmark on this machine runs, the errors of `make_plan` for an
        invalid request, and StorageUnavailable if nothing can be stored at present.
        """
        self._check_free()
        self._starting = True
        try:
            await asyncio.to_thread(make_plan, self._registry, request)
            identifier, now = new_id(), time.time()
            request_json = json.dumps(_public_fields(request))
            await asyncio.to_thread(self._store.begin, identifier, request_json, now, self._host)
            row = BenchmarkRow(
                identifier, "running", now, None, request_json, None, measured=False, machine=self._host
            )
            # Jobs that are in the pool now will disturb the benchmark, like all later ones.
            before = self._pool.begun - self._pool.running - self._pool.waiting
            config = JobConfig(
                model_dirs=self._model_dirs,
                added_models=None if self._registry.added is None else self._registry.added.absolute(),
                default_model=self._registry.default_model,
                request=request,
                repetitions=self._repetitions,
            )
            try:
                process = await JobProcess.start(config)
            except OSError as error:
                detail = f"process could not be started: {error.strerror}"
                await asyncio.to_thread(self._store.finish, identifier, "failed", time.time(), detail=detail)
                raise
            self._running = _Running(row, process, before)
            self._task = asyncio.create_task(self._watch(self._running))
        finally:
            self._starting = False
        return self._with_progress(row)

    async def cancel(self, identifier: str) -> Benchmark:
        """Stop a benchmark and keep its results, flagged partial. It may be called more than once.

        If another process runs the benchmark, that process stops it within about a second. Raises
        UnknownBenchmark, and BenchmarkEnded if the benchmark has ended without being cancelled.
        """
        running = self._running
        if running is not None and running.row.id == identifier:
            self._cancel(running, CANCELLED)
            return self._with_progress(running.row)
        benchmark = await self.get(identifier)
        if not benchmark.ended:
            if not (self._store.shared or self.running):  # it has ended, but this could not be stored
                await asyncio.to_thread(self._store.interrupt_lost, time.time())
            elif await asyncio.to_thread(self._store.request_cancel, identifier, time.time()):
                return replace(benchmark, cancelling=True)
            benchmark = await self.get(identifier)
        if benchmark.row.state != "cancelled":
            raise BenchmarkEnded(f"benchmark '{identifier}': already ended ({benchmark.row.state})")
        return benchmark

    async def get(self, identifier: str) -> Benchmark:
        """Return what is known of a benchmark now. Raises UnknownBenchmark."""
        if self._running is not None and self._running.row.id == identifier:
            return self._with_progress(self._running.row)

        def read() -> list[BenchmarkRow]:
            row = self._store.row(identifier)
            return [] if row is None else [row]

        rows = await asyncio.to_thread(self._without_lost, read)
        if not rows:
            raise UnknownBenchmark(f"no benchmark '{identifier[:64]}'")
        return self._with_progress(rows[0])

    async def newest(self, limit: int) -> list[Benchmark]:
        """Return the newest benchmarks, including the running ones."""
        rows = await asyncio.to_thread(self._without_lost, lambda: self._store.rows(limit))
        return [self._with_progress(row) for row in rows]

    async def bundle(self, identifier: str) -> bytes | None:
        """Return the bundle as JSON, or None while the benchmark has no bundle. Raises UnknownBenchmark."""
        await self.get(identifier)
        return await asyncio.to_thread(self._store.bundle, identifier)

    async def follow(self, identifier: str, at_least_every_s: float) -> AsyncIterator[Benchmark]:
        """Yield what is known of a benchmark at every change, at least every `at_least_every_s` seconds.

        This ends when the benchmark has ended or the service stops. Raises UnknownBenchmark.
        """
        known: Benchmark | None = None
        sent_at = 0.0
        while True:
            changed = self._changed
            benchmark = known
            with contextlib.suppress(DatabaseUnreachable):  # the database may come back before the end
                benchmark = await self._follow_once(identifier)
            if benchmark is not None:
                if benchmark != known or time.monotonic() - sent_at >= at_least_every_s:
                    known, sent_at = benchmark, time.monotonic()
                    yield benchmark
                if benchmark.ended:
                    return
            if self._stopping:
                return
            here = self._running is not None and self._running.row.id == identifier
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), at_least_every_s if here else FOLLOW_S)

    async def _follow_once(self, identifier: str) -> Benchmark:
        """Return what is known of a benchmark now.

        If this process does not run the benchmark, the database is read. All calls that ask for the same
        benchmark within about FOLLOW_S share one such read.
        """
        if self._running is not None and self._running.row.id == identifier:
            return self._with_progress(self._running.row)
        reading = self._followed.get(identifier)
        if reading is None:
            reading = self._followed[identifier] = asyncio.create_task(self.get(identifier))
        return await asyncio.shield(reading)

    def stop(self) -> None:
        """Cancel the running benchmark and end all event streams, because the service stops."""
        self._stopping = True
        if self._running is not None and not self._running.process_ended:
            self._cancel(self._running, "the service was stopped")
        self._notify()

    async def close(self) -> None:
        """Cancel the running benchmark, and wait until it has ended and its end is stored.

        No process remains after this call.
        """
        self.stop()
        if self._task is not None:
            await self._task

    def _check_free(self) -> None:
        if self._stopping:
            raise Busy("service: stopping")
        if self._demo_runs():
            raise Busy("benchmark: the demo is running, which would disturb it (wait half a minute)")
        if self.running:
            running = "another one" if self._running is None else f"'{self._running.row.id}'"
            raise Busy(f"benchmark: {running} is running (limit: 1)")

    def _cancel(self, running: _Running, reason: str) -> None:
        if running.cancelled:
            return
        running.cancel_reason = reason
        if not running.process_ended:
            running.process.cancel()
        self._notify()

    async def _watch(self, running: _Running) -> None:
        state: BenchmarkState = "failed"
        detail: str | None = "unexpected error (see the log)"
        bundle: bytes | None = None
        heartbeats = asyncio.create_task(self._send_heartbeats(running)) if self._store.shared else None
        try:
            last = await self._listen(running)
            state, detail = "failed", "the benchmark process ended early"
            if isinstance(last, BundleReport):
                bundle = await asyncio.to_thread(self._finished, last.bundle, running)
                state, detail = "done", None
            elif isinstance(last, FailureReport):
                detail = last.message
        except Exception:
            log.exception("benchmark failed", benchmark=running.row.id)
        finally:
            running.process_ended = True
            await running.process.end()
        try:
            await self._keep(running, state, detail, bundle)
        except StorageUnavailable as error:
            log.error("benchmark could not be stored", benchmark=running.row.id, reason=error.detail)
        if heartbeats is not None:
            heartbeats.cancel()
        self._running = None
        self._followed.pop(running.row.id, None)
        self._notify()

    async def _keep(
        self, running: _Running, state: BenchmarkState, detail: str | None, bundle: bytes | None
    ) -> None:
        """Store how a benchmark has ended. If the database cannot be reached, wait until it can.

        Raises StorageUnavailable if the end cannot be stored for another reason, or if the service stops
        before it is stored.
        """
        while True:
            changed = self._changed
            reason = running.cancel_reason
            if reason is not None:  # the cancellation may have come after the end
                state, detail = "cancelled", cancelled_detail(reason, bundle)
            try:
                await asyncio.to_thread(
                    self._store.finish, running.row.id, state, time.time(), detail=detail, bundle=bundle
                )
            except DatabaseUnreachable:
                if self._stopping:
                    raise
            else:
                if running.cancel_reason == reason:
                    return
                continue  # it was cancelled while its end was being stored
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _RETRY_S)

    async def _send_heartbeats(self, running: _Running) -> None:
        """Send heartbeats until this task is cancelled.

        Each stores the progress, and stops the benchmark if another process has asked for this.
        """
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            progress = None if running.progress is None else json.dumps(asdict(running.progress))
            try:
                asked = await asyncio.to_thread(
                    self._store.heard, running.row.id, time.time(), progress, cancelling=running.cancelled
                )
            except StorageUnavailable:
                continue
            except Busy:
                if not running.process_ended:
                    self._cancel(running, OVERTAKEN)
                continue
            except Exception:
                log.exception("heartbeat of a benchmark failed", benchmark=running.row.id)
                continue
            if asked:
                self._cancel(running, CANCELLED)

    async def _listen(self, running: _Running) -> JobReport | None:
        """Process the reports of a benchmark until its process ends.

        Return the last report that is no progress report, or None if there is no such report.
        """
        last: JobReport | None = None
        async for report in running.process.reports():
            if not isinstance(report, ProgressReport):
                last = report
                continue
            running.progress = report.progress
            self._notify()
        return last

    def _finished(self, text: str, running: _Running) -> bytes:
        """Return the finished bundle as JSON, with a flag if live traffic disturbed the benchmark.

        If the bundle is neither disturbed nor void, its samples are recorded as latencies of the service.
        """
        bundle: Bundle = from_json(text)
        live_jobs = self._pool.begun - running.jobs_before
        if live_jobs:
            reason = f"the service ran {live_jobs} jobs of its own meanwhile"
            bundle = bundle.with_flag(Flag(kind="contaminated", reason=reason))
        if not bundle.flags_of("contaminated") and not bundle.flags_of("void"):
            versions = {facts.name: facts.sha256 for facts in bundle.models}
            for model, regime, durations in recorder_samples(bundle):
                self._recorder.record(model, regime, durations, versions[model], "onnxruntime")
        return to_json(bundle).encode()

    def _with_progress(self, row: BenchmarkRow) -> Benchmark:
        running = self._running
        if running is None or running.row.id != row.id:
            return Benchmark.stored(row)
        return Benchmark(running.row, running.progress, running.cancelled)

    def _without_lost(self, read: Callable[[], list[BenchmarkRow]]) -> list[BenchmarkRow]:
        """Return the rows from `read`.

        If some of these benchmarks have lost their process, they are first marked as interrupted.
        """
        rows = read()
        if any(row.lost for row in rows):
            with contextlib.suppress(StorageUnavailable):
                self._store.interrupt_lost(time.time())
                rows = read()
        return rows

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _public_fields(request: Request) -> dict[str, object]:
    """Return the fields of a request that the API shows.

    Paths and options of the command line are left out. Of the photos, only the number is shown.
    """
    hidden = ("photos", "url", "launches", "rounds", "runs")
    shown = {name: value for name, value in asdict(request).items() if name not in hidden}
    return shown | {"photos": len(request.photos)}
