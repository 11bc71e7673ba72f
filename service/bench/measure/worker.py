"""Process of one launch.

It reads its configuration from standard input, and writes reports as JSON lines to standard output. The
process ends with its parent: its standard input closes when the parent ends, for whatever reason.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from models.zoo.card import Card, InputSpec, read_card
from service.bench.bundle import BenchStage, Block, Cold, Memory, RateTrial, WarmUp
from service.bench.measure import scenarios
from service.bench.measure.inputs import MAX_PIXELS, as_jpeg, natural_picture
from service.bench.measure.messages import (
    BlockReport,
    ColdReport,
    Done,
    Failure,
    MemoryReport,
    Report,
    TrialReport,
    WarmUpReport,
    WorkerConfig,
    WorkerEntry,
)
from service.bench.measure.subjects import BareSession, FromBytes, Run, Subject, ThroughService
from service.errors import MeasurementFailed, WeighinError, error_words
from service.inference.pipeline import load_image, to_tensor
from service.inference.runtimes.base import RuntimeName, Session, SessionError
from service.inference.runtimes.opening import import_runtime, open_session

Emit = Callable[[Report], None]

_MEMORY_RUNS = 5


def main() -> int:
    """Run the launch that is configured on standard input. Return 0 if it succeeds, and 1 if it fails."""
    config_line = sys.stdin.buffer.readline()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keep the output of libraries out of the reports

    def emit(report: Report) -> None:
        reports.write(report.model_dump_json() + "\n")

    try:
        config = WorkerConfig.model_validate_json(config_line)
        if config.purpose == "memory":
            _report_memory(config, emit)
        else:
            _Launch(config, emit).run()
    except WeighinError as error:
        emit(Failure(message=str(error)))
        return 1
    emit(Done(cpu_s=time.process_time()))
    return 0


def _die_with_parent() -> None:
    # Read the descriptor, because a thread that waits in sys.stdin would hold a lock and abort a normal exit.
    while os.read(0, 1):
        pass
    os._exit(1)


class _Launch:
    def __init__(self, config: WorkerConfig, emit: Emit) -> None:
        self._config = config
        self._emit = emit
        self._subjects: dict[str, Subject] = {}
        self._stage: dict[str, BenchStage] = {}
        self._threads: dict[str, int] = {}
        self._images = _images(config)
        self._executor = ThreadPoolExecutor(config.cores)

    def run(self) -> None:
        config = self._config
        for worker_entry in config.entries:
            self._open(worker_entry)
        # From now on, all objects live until the end. A garbage collection would count as time of a run.
        gc.collect()
        gc.freeze()
        gc.disable()
        for worker_entry in config.entries:
            name = worker_entry.entry.name
            warmed_up = scenarios.warm_up(self._subjects[name], self._stage[name], config.warm_up_s)
            self._emit(
                WarmUpReport(
                    warm_up=WarmUp(
                        launch=config.launch,
                        entry=name,
                        runs=warmed_up.runs,
                        window_p50_ns=warmed_up.windows_ns,
                        stable=warmed_up.stable,
                    )
                )
            )
        for number, order in enumerate(config.order):
            for position, name in enumerate(order):
                self._measure(name, number, position)

    def _open(self, worker_entry: WorkerEntry) -> None:
        entry = worker_entry.entry
        self._threads[entry.name] = max(1, self._config.cores // entry.threads)
        if entry.via == "http":
            assert self._config.url is not None
            self._stage[entry.name] = "round_trip"
            task = _read_card(Path(worker_entry.folder)).task
            self._subjects[entry.name] = ThroughService(self._config.url, entry.model, self._images, task)
            return
        card, content = _read_model(worker_entry)
        start = time.perf_counter_ns()
        session = _open_model(entry.runtime, content, card, entry.threads)
        run = session.run
        loaded = time.perf_counter_ns()
        subject: Subject
        tensors = [
            to_tensor(load_image(data, card.input, max_pixels=MAX_PIXELS), card.input)
            for data in self._images
        ]
        first = time.perf_counter_ns()
        run(tensors[0])
        first_run = time.perf_counter_ns() - first
        if self._config.stages:
            subject = FromBytes(run, card, self._images, MAX_PIXELS)
        else:
            subject = BareSession(run, tensors, worker_entry.extra_work)
        self._stage[entry.name] = "inference"
        self._subjects[entry.name] = subject
        cold = Cold(
            launch=self._config.launch,
            entry=entry.name,
            load_ns=loaded - start,
            first_run_ns=first_run,
            precision=session.precision,
        )
        self._emit(ColdReport(cold=cold))

    def _measure(self, name: str, number: int, position: int) -> None:
        config, subject, threads = self._config, self._subjects[name], self._threads[name]
        if config.scenario == "server":
            self._find_rate(name, number)
            return
        images = 1
        columns: scenarios.Columns
        if config.scenario == "offline":
            scenarios.all_at_once(subject, self._executor, threads, threads, 0)
            images, elapsed = scenarios.all_at_once(
                subject, self._executor, threads, config.block_runs * threads, config.block_s
            )
            columns = {"total": [elapsed]}
        else:
            columns = scenarios.one_after_another(
                subject, config.block_runs, config.block_s, number * config.block_runs
            )
        block = Block(
            launch=config.launch,
            round=number,
            position=position,
            entry=name,
            images=images,
            durations_ns={stage: tuple(durations) for stage, durations in columns.items()},
        )
        self._emit(BlockReport(block=block))

    def _find_rate(self, name: str, number: int) -> None:
        config = self._config
        assert config.budget_ms is not None
        draw = random.Random(f"{config.seed} {config.launch} {number} {name}")
        for trial in scenarios.search_rate(
            self._subjects[name],
            self._executor,
            self._threads[name],
            config.trial_queries,
            config.budget_ms,
            draw,
        ):
            self._emit(
                TrialReport(
                    trial=RateTrial(
                        launch=config.launch,
                        entry=name,
                        rate_per_s=trial.rate_per_s,
                        latencies_ns=trial.latencies_ns,
                        inference_ns=trial.inference_ns,
                        abandoned=trial.abandoned,
                    )
                )
            )


def _images(config: WorkerConfig) -> Sequence[bytes]:
    if not config.photos:
        return [as_jpeg(natural_picture())]
    try:
        return [Path(photo).read_bytes() for photo in config.photos]
    except OSError as error:
        name = Path(error.filename or "").name
        raise MeasurementFailed(f"input {name}: cannot be read any more: {error_words(error)}") from None


def _read_card(folder: Path) -> Card:
    try:
        return read_card(folder)
    except (OSError, ValueError):
        raise MeasurementFailed(f"model '{folder.name}' cannot be read any more") from None


def _read_model(worker_entry: WorkerEntry) -> tuple[Card, bytes]:
    folder = Path(worker_entry.folder)
    card = _read_card(folder)
    if worker_entry.sha256 not in ("", card.file.sha256):
        raise MeasurementFailed(f"model '{folder.name}' was replaced while it was measured: measure again")
    try:
        content = (folder / card.file.name).read_bytes()
    except OSError:
        raise MeasurementFailed(f"model '{folder.name}' cannot be read any more") from None
    if hashlib.sha256(content).hexdigest() != card.file.sha256:
        raise MeasurementFailed(f"model '{folder.name}': its file is not the one that the card describes")
    return card, content


def _open_model(runtime: RuntimeName, content: bytes, card: Card, threads: int) -> Session:
    """Load a model as the service does. OpenVINO runs it in the CPU's default precision."""
    try:
        return open_session(runtime, content, card, threads=threads)
    except SessionError as error:
        raise MeasurementFailed(f"model '{card.name}': {error}") from None


def _report_memory(config: WorkerConfig, emit: Emit) -> None:
    (worker_entry,) = config.entries
    entry, folder = worker_entry.entry, Path(worker_entry.folder)

    def load() -> Run:
        card, content = _read_model(worker_entry)
        return _open_model(entry.runtime, content, card, entry.threads).run

    import_runtime(entry.runtime)
    memory = _measure_memory(entry.name, _read_card(folder).input, load)
    if memory is not None:
        emit(MemoryReport(memory=memory))


def _measure_memory(entry: str, spec: InputSpec, load: Callable[[], Run]) -> Memory | None:
    """Load the model, run it a few times, and return how much memory the process took.

    Return None if the system does not report memory. Call this in a process that has only imported the
    runtime. The input is created before memory is read for the first time.
    """
    tensor = np.full((1, spec.channels, spec.height, spec.width), 0.5, np.float32)
    before = _resident("VmRSS")
    run = load()
    for _ in range(_MEMORY_RUNS):
        run(tensor)
    peak = _resident("VmHWM")
    if before is None or peak is None:
        return None
    return Memory(entry=entry, before_bytes=before, peak_bytes=max(peak, before))


def _resident(field: str) -> int | None:
    """Return VmRSS or VmHWM of this process in bytes; None on systems other than Linux.

    `getrusage` is not usable: its maximum includes the parent's memory at the fork.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


if __name__ == "__main__":
    sys.exit(main())
