"""Run benchmarks as jobs of the service: one at a time, each in a separate process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from service.bench.archive import new_id
from service.bench.bundle import Bundle, Flag
from service.bench.bundle_file import from_json, to_json
from service.bench.job import BundleReport, FailureReport, JobConfig, JobReport, ProgressReport
from service.bench.job_process import JobProcess
from service.bench.judge.summary import recorder_samples
from service.bench.measure.plan import Repetitions, Request, make_plan
from service.bench.measure.progress import Progress
from service.bench.store import BenchmarkRow, BenchmarkState, BenchmarkStore
from service.errors import BenchmarkEnded, Busy, StorageUnavailable, UnknownBenchmark
from service.inference.pool import CorePool
from service.inference.registry import Registry
from service.latency.recorder import Recorder

_HEARTBEAT_INTERVAL_S = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """State of a benchmark. `progress`: if this process runs it; `cancelling`: cancelled, but not ended."""

    row: BenchmarkRow
    progress: Progress | None = None
    cancelling: bool = False

    @property
    def ended(self) -> bool:
        """Whether the benchmark has ended."""
        return self.row.state != "running"


class _Running:
    def __init__(self, row: BenchmarkRow, process: JobProcess, jobs_before: int) -> None:
        self.row = row
        self.process = process
        self.jobs_before = jobs_before
        self.progress: Progress | None = None
        self.cancelled = False
        self.cancel_reason: str | None = None


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
    ) -> None:
        """`repetitions` replaces those of the profiles; `demo_runs` returns whether the demo runs."""
        self._registry = registry
        self._pool = pool
        self._recorder = recorder
        self._store = store
        self._model_dirs = tuple(folder.absolute() for folder in model_dirs)
        self._repetitions = repetitions
        self._demo_runs = demo_runs
        self._starting = False
        self._running: _Running | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._stopping = False

    @property
    def running(self) -> bool:
        """Whether a benchmark of this process is starting or runs."""
        return self._starting or self._running is not None

    async def open(self) -> None:
        """Mark benchmarks of an earlier process as interrupted, if state can be written."""
        with contextlib.suppress(StorageUnavailable):
            await asyncio.to_thread(
                self._store.interrupt_lost, time.time(), detail="the service ended while it ran"
            )

    async def start(self, request: Request) -> Benchmark:
        """Start a benchmark.

        Raises Busy while another one or the demo runs, the errors of `make_plan` for an invalid request, and
        StorageUnavailable if the result could not be stored.
        """
        self._check_free()
        self._starting = True
        try:
            await asyncio.to_thread(make_plan, self._registry, request)
            identifier, now = new_id(), time.time()
            request_json = json.dumps(_public_fields(request))
            await asyncio.to_thread(self._store.begin, identifier, request_json, now)
            row = BenchmarkRow(identifier, "running", now, None, request_json, None, measured=False)
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
        """Stop a benchmark and keep its results, flagged partial; idempotent.

        Raises UnknownBenchmark, and BenchmarkEnded for a benchmark that ended in another way.
        """
        running = self._running
        if running is not None and running.row.id == identifier:
            self._cancel(running, "it was cancelled")
            return self._with_progress(running.row)
        benchmark = await self.get(identifier)
        if not benchmark.ended:
            raise BenchmarkEnded(f"benchmark '{identifier}': runs in another process (cancel it there)")
        if benchmark.row.state != "cancelled":
            raise BenchmarkEnded(f"benchmark '{identifier}': already ended ({benchmark.row.state})")
        return benchmark

    async def get(self, identifier: str) -> Benchmark:
        """Return a benchmark. Raises UnknownBenchmark."""
        if self._running is not None and self._running.row.id == identifier:
            return self._with_progress(self._running.row)
        row = await asyncio.to_thread(self._store.row, identifier)
        if row is None:
            raise UnknownBenchmark(f"no benchmark '{identifier[:64]}'")
        return Benchmark(row)

    async def newest(self, limit: int) -> list[Benchmark]:
        """Return the newest benchmarks, including the running one."""
        return [self._with_progress(row) for row in await asyncio.to_thread(self._store.rows, limit)]

    async def bundle(self, identifier: str) -> bytes | None:
        """Return the bundle as JSON; None if there is none (yet). Raises UnknownBenchmark."""
        await self.get(identifier)
        return await asyncio.to_thread(self._store.bundle, identifier)

    async def follow(self, identifier: str, at_least_every_s: float) -> AsyncIterator[Benchmark]:
        """Yield the benchmark on every change, and at least every `at_least_every_s` seconds.

        Stops when the benchmark has ended or the service stops. Raises UnknownBenchmark.
        """
        while True:
            changed = self._changed
            benchmark = await self.get(identifier)
            yield benchmark
            if benchmark.ended or self._stopping:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), at_least_every_s)

    def stop(self) -> None:
        """Cancel the running benchmark and end all event streams, because the service stops."""
        self._stopping = True
        if self._running is not None:
            self._cancel(self._running, "the service was stopped")
        self._notify()

    async def close(self) -> None:
        """Stop, and wait until the running benchmark has ended and is stored; no process remains."""
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
        running.cancelled = True
        running.cancel_reason = reason
        running.process.cancel()
        self._notify()

    async def _watch(self, running: _Running) -> None:
        state: BenchmarkState = "failed"
        detail: str | None = "unexpected error (see the log)"
        bundle: bytes | None = None
        try:
            last = await self._listen(running)
            state, detail = "failed", "the benchmark process ended early"
            if isinstance(last, BundleReport):
                bundle = await asyncio.to_thread(self._finished, last.bundle, running)
                state, detail = ("cancelled", running.cancel_reason) if running.cancelled else ("done", None)
            elif running.cancelled:
                state, detail = "cancelled", f"{running.cancel_reason}, before the first results"
            elif isinstance(last, FailureReport):
                detail = last.message
        except Exception:
            log.exception("benchmark failed", benchmark=running.row.id)
        finally:
            await running.process.end()
        try:
            await asyncio.to_thread(
                self._store.finish, running.row.id, state, time.time(), detail=detail, bundle=bundle
            )
        except StorageUnavailable as error:
            log.error("benchmark could not be stored", benchmark=running.row.id, reason=error.detail)
        self._running = None
        self._notify()

    async def _listen(self, running: _Running) -> JobReport | None:
        """Process reports until the process ends; return the last one that is not a progress report."""
        last: JobReport | None = None
        last_heartbeat = time.monotonic()
        async for report in running.process.reports():
            if not isinstance(report, ProgressReport):
                last = report
                continue
            running.progress = report.progress
            self._notify()
            if time.monotonic() - last_heartbeat > _HEARTBEAT_INTERVAL_S:
                last_heartbeat = time.monotonic()
                with contextlib.suppress(StorageUnavailable):
                    await asyncio.to_thread(self._store.heard, running.row.id, time.time())
        return last

    def _finished(self, text: str, running: _Running) -> bytes:
        """Return the bundle as JSON. If live traffic disturbed it, flag it; if not, record its samples."""
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
            return Benchmark(row)
        return Benchmark(running.row, running.progress, running.cancelled)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _public_fields(request: Request) -> dict[str, object]:
    """Return the request as the API shows it: without paths and fields that only the command line has."""
    hidden = ("photos", "url", "launches", "rounds", "runs")
    shown = {name: value for name, value in asdict(request).items() if name not in hidden}
    return shown | {"photos": len(request.photos)}
