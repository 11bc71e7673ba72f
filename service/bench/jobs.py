"""Benchmarks as jobs of the service: one at a time, each in a process of its own, watched and kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
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

_HEARD_EVERY_S = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as it stands. `progress`: while this process runs it. `cancelling`: it will end soon."""

    row: BenchmarkRow
    progress: Progress | None = None
    cancelling: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.row.state != "running"


class _Running:
    def __init__(self, row: BenchmarkRow, process: JobProcess, jobs_before: int) -> None:
        self.row = row
        self.process = process
        self.jobs_before = jobs_before
        self.progress: Progress | None = None
        self.cancelled = False
        self.why_cancelled: str | None = None


class BenchmarkJobs:
    """Starts, watches and cancels benchmarks. All methods belong to the event loop's thread."""

    def __init__(
        self,
        registry: Registry,
        pool: CorePool,
        recorder: Recorder,
        store: BenchmarkStore,
        model_dirs: tuple[Path, ...],
        *,
        repetitions: Repetitions | None = None,
    ) -> None:
        """`repetitions` replaces those of the profiles."""
        self._registry = registry
        self._pool = pool
        self._recorder = recorder
        self._store = store
        self._model_dirs = tuple(folder.absolute() for folder in model_dirs)
        self._repetitions = repetitions
        self._starting = False
        self._running: _Running | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._stopping = False

    async def open(self) -> None:
        """Settle what a predecessor left behind. Where state cannot be written, that waits."""
        with contextlib.suppress(StorageUnavailable):
            await asyncio.to_thread(
                self._store.interrupt_lost, time.time(), detail="the service ended while it ran"
            )

    async def start(self, request: Request) -> Benchmark:
        """Begin to measure.

        Raises Busy while another benchmark runs, the errors of `make_plan` for a request that cannot be
        carried out, and StorageUnavailable when its result could not be kept.
        """
        self._check_free()
        self._starting = True
        try:
            await asyncio.to_thread(make_plan, self._registry, request)
            identifier, now = new_id(), time.time()
            asked = json.dumps(_told(request))
            await asyncio.to_thread(self._store.begin, identifier, asked, now)
            row = BenchmarkRow(identifier, "running", now, None, asked, None, measured=False)
            # Jobs that are in the pool now will disturb it, as will all that come.
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
                detail = f"its process could not be started: {error.strerror}"
                await asyncio.to_thread(self._store.finish, identifier, "failed", time.time(), detail=detail)
                raise
            self._running = _Running(row, process, before)
            self._task = asyncio.create_task(self._watch(self._running))
        finally:
            self._starting = False
        return self._now(row)

    async def cancel(self, identifier: str) -> Benchmark:
        """Make it stop and keep what there is, marked partial. Doing it twice is doing it once.

        Raises UnknownBenchmark, and BenchmarkEnded for one that ended in another way.
        """
        running = self._running
        if running is not None and running.row.id == identifier:
            self._cancel(running, "it was cancelled")
            return self._now(running.row)
        found = await self.get(identifier)
        if not found.ended:
            raise BenchmarkEnded(f"benchmark '{identifier}' runs in another process: cancel it there")
        if found.row.state != "cancelled":
            raise BenchmarkEnded(f"benchmark '{identifier}' has ended already: {found.row.state}")
        return found

    async def get(self, identifier: str) -> Benchmark:
        """The benchmark of that id. UnknownBenchmark when there is none."""
        if self._running is not None and self._running.row.id == identifier:
            return self._now(self._running.row)
        row = await asyncio.to_thread(self._store.row, identifier)
        if row is None:
            raise UnknownBenchmark(f"no benchmark '{identifier[:64]}'")
        return Benchmark(row)

    async def newest(self, limit: int) -> list[Benchmark]:
        """The newest benchmarks, the one that runs among them."""
        return [self._now(row) for row in await asyncio.to_thread(self._store.rows, limit)]

    async def bundle(self, identifier: str) -> bytes | None:
        """A measurement's JSON; None while there is none. UnknownBenchmark for an id that is none."""
        await self.get(identifier)
        return await asyncio.to_thread(self._store.bundle, identifier)

    async def follow(self, identifier: str, at_least_every_s: float) -> AsyncIterator[Benchmark]:
        """The benchmark whenever it changes, and so often even if not, until it has ended or the service
        stops. UnknownBenchmark for an id that is none.
        """
        while True:
            changed = self._changed
            found = await self.get(identifier)
            yield found
            if found.ended or self._stopping:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), at_least_every_s)

    def stop(self) -> None:
        """The service is about to stop: end what runs, and let those who follow it go."""
        self._stopping = True
        if self._running is not None:
            self._cancel(self._running, "the service was stopped")
        self._notify()

    async def close(self) -> None:
        """Wait until what ran has ended and is kept; no process is left then."""
        self.stop()
        if self._task is not None:
            await self._task

    def _check_free(self) -> None:
        if self._stopping:
            raise Busy("the service is stopping")
        if self._starting or self._running is not None:
            which = "" if self._running is None else f" '{self._running.row.id}'"
            raise Busy(f"another benchmark{which} is running; one runs at a time")

    def _cancel(self, running: _Running, why: str) -> None:
        if running.cancelled:
            return
        running.cancelled = True
        running.why_cancelled = why
        running.process.cancel()
        self._notify()

    async def _watch(self, running: _Running) -> None:
        state: BenchmarkState = "failed"
        detail: str | None = "it failed unexpectedly, see the log"
        bundle: bytes | None = None
        try:
            last = await self._listen(running)
            state, detail = "failed", "the process that measured it ended early"
            if isinstance(last, BundleReport):
                bundle = await asyncio.to_thread(self._finished, last.bundle, running)
                state, detail = ("cancelled", running.why_cancelled) if running.cancelled else ("done", None)
            elif running.cancelled:
                state, detail = "cancelled", f"{running.why_cancelled}, before anything was measured"
            elif isinstance(last, FailureReport):
                detail = last.message
        except Exception:
            log.exception("a benchmark failed", benchmark=running.row.id)
        finally:
            await running.process.end()
        try:
            await asyncio.to_thread(
                self._store.finish, running.row.id, state, time.time(), detail=detail, bundle=bundle
            )
        except StorageUnavailable as error:
            log.error("a benchmark could not be kept", benchmark=running.row.id, reason=error.detail)
        self._running = None
        self._notify()

    async def _listen(self, running: _Running) -> JobReport | None:
        """Take reports until the process ends; the last one that is not of progress."""
        last: JobReport | None = None
        heard = time.monotonic()
        async for report in running.process.reports():
            if not isinstance(report, ProgressReport):
                last = report
                continue
            running.progress = report.progress
            self._notify()
            if time.monotonic() - heard > _HEARD_EVERY_S:
                heard = time.monotonic()
                with contextlib.suppress(StorageUnavailable):
                    await asyncio.to_thread(self._store.heard, running.row.id, time.time())
        return last

    def _finished(self, text: str, running: _Running) -> bytes:
        """Mark what live traffic disturbed, record the rest, and return what is kept."""
        bundle: Bundle = from_json(text)
        answered = self._pool.begun - running.jobs_before
        if answered:
            reason = f"the service ran {answered} jobs of its own meanwhile"
            bundle = bundle.with_flag(Flag(kind="contaminated", reason=reason))
        if not bundle.flags_of("contaminated") and not bundle.flags_of("void"):
            versions = {facts.name: facts.sha256 for facts in bundle.models}
            for model, regime, durations in recorder_samples(bundle):
                self._recorder.record(model, regime, durations, versions[model])
        return to_json(bundle).encode()

    def _now(self, row: BenchmarkRow) -> Benchmark:
        running = self._running
        if running is None or running.row.id != row.id:
            return Benchmark(row)
        return Benchmark(running.row, running.progress, running.cancelled)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _told(request: Request) -> dict[str, object]:
    """Return the request as the API shows it: without the paths of files, and what HTTP cannot ask for."""
    hidden = ("photos", "url", "launches", "rounds", "runs")
    shown = {name: value for name, value in asdict(request).items() if name not in hidden}
    return shown | {"photos": len(request.photos)}
