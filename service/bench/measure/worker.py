"""The process of one launch: takes orders on its standard input, reports JSON lines on its standard output.

It dies with its parent: the pipe of its standard input closes when the parent ends, however it ends.
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

from models.zoo.card import Card, read_card
from service.bench.bundle import BenchStage, Block, Cold, RateTrial, RuntimeName, WarmUp
from service.bench.measure import measure
from service.bench.measure.inputs import MAX_PIXELS, as_jpeg, natural_picture
from service.bench.measure.memory import weigh
from service.bench.measure.orders import (
    BlockReport,
    ColdReport,
    Done,
    Failure,
    Job,
    MemoryReport,
    Orders,
    Report,
    TrialReport,
    WarmUpReport,
)
from service.bench.measure.runtimes import Run, import_runtime, open_model
from service.bench.measure.subjects import BareSession, FromBytes, Subject, ThroughService
from service.errors import MeasurementFailed, WeighinError
from service.inference.pipeline import load_image, to_tensor
from service.inference.session import SessionError

Emit = Callable[[Report], None]


def main() -> int:
    """Carry out the orders on standard input; 0 when all was done."""
    orders_line = sys.stdin.buffer.readline()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not land among the reports

    def emit(report: Report) -> None:
        reports.write(report.model_dump_json() + "\n")

    try:
        orders = Orders.model_validate_json(orders_line)
        if orders.purpose == "memory":
            _weigh_memory(orders, emit)
        else:
            _Launch(orders, emit).carry_out()
    except WeighinError as error:
        emit(Failure(message=str(error)))
        return 1
    emit(Done(cpu_s=time.process_time()))
    return 0


def _die_with_parent() -> None:
    # The descriptor itself: a thread that waits in sys.stdin would hold its lock and abort a normal end.
    while os.read(0, 1):
        pass
    os._exit(1)


class _Launch:
    def __init__(self, orders: Orders, emit: Emit) -> None:
        self._orders = orders
        self._emit = emit
        self._subjects: dict[str, Subject] = {}
        self._stage: dict[str, BenchStage] = {}
        self._threads: dict[str, int] = {}
        self._images = _images(orders)
        self._executor = ThreadPoolExecutor(orders.cores)

    def carry_out(self) -> None:
        orders = self._orders
        for job in orders.jobs:
            self._open(job)
        # What lives now lives to the end; a collection in the middle of a run would be counted as its time.
        gc.collect()
        gc.freeze()
        gc.disable()
        for job in orders.jobs:
            name = job.entry.name
            done = measure.warm_up(self._subjects[name], self._stage[name], orders.warm_up_s)
            self._emit(
                WarmUpReport(
                    warm_up=WarmUp(
                        launch=orders.launch,
                        entry=name,
                        runs=done.runs,
                        window_p50_ns=done.windows_ns,
                        stable=done.stable,
                    )
                )
            )
        for number, order in enumerate(orders.order):
            for position, name in enumerate(order):
                self._measure(name, number, position)

    def _open(self, job: Job) -> None:
        entry = job.entry
        self._threads[entry.name] = max(1, self._orders.cores // entry.threads)
        if entry.via == "http":
            assert self._orders.url is not None
            self._stage[entry.name] = "round_trip"
            self._subjects[entry.name] = ThroughService(self._orders.url, entry.model, self._images)
            return
        card, content = _read_model(Path(job.folder))
        start = time.perf_counter_ns()
        run = _open_model(entry.runtime, content, card, entry.threads)
        loaded = time.perf_counter_ns()
        subject: Subject
        tensors = [
            to_tensor(load_image(data, card.input, max_pixels=MAX_PIXELS), card.input)
            for data in self._images
        ]
        first = time.perf_counter_ns()
        run(tensors[0])
        first_run = time.perf_counter_ns() - first
        if self._orders.stages:
            subject = FromBytes(run, card, self._images, MAX_PIXELS)
        else:
            subject = BareSession(run, tensors, job.extra_work)
        self._stage[entry.name] = "inference"
        self._subjects[entry.name] = subject
        cold = Cold(
            launch=self._orders.launch, entry=entry.name, load_ns=loaded - start, first_run_ns=first_run
        )
        self._emit(ColdReport(cold=cold))

    def _measure(self, name: str, number: int, position: int) -> None:
        orders, subject, threads = self._orders, self._subjects[name], self._threads[name]
        if orders.scenario == "server":
            self._find_rate(name, number)
            return
        images = 1
        columns: measure.Columns
        if orders.scenario == "offline":
            measure.all_at_once(subject, self._executor, threads, threads, 0)
            images, elapsed = measure.all_at_once(
                subject, self._executor, threads, orders.block_runs * threads, orders.block_s
            )
            columns = {"total": [elapsed]}
        else:
            columns = measure.one_after_another(
                subject, orders.block_runs, orders.block_s, number * orders.block_runs
            )
        block = Block(
            launch=orders.launch,
            round=number,
            position=position,
            entry=name,
            images=images,
            durations_ns={stage: tuple(durations) for stage, durations in columns.items()},
        )
        self._emit(BlockReport(block=block))

    def _find_rate(self, name: str, number: int) -> None:
        orders = self._orders
        assert orders.budget_ms is not None
        draw = random.Random(f"{orders.seed} {orders.launch} {number} {name}")
        for trial in measure.search_rate(
            self._subjects[name],
            self._executor,
            self._threads[name],
            orders.trial_queries,
            orders.budget_ms,
            draw,
        ):
            self._emit(
                TrialReport(
                    trial=RateTrial(
                        launch=orders.launch,
                        entry=name,
                        rate_per_s=trial.rate_per_s,
                        latencies_ns=trial.latencies_ns,
                        inference_ns=trial.inference_ns,
                        abandoned=trial.abandoned,
                    )
                )
            )


def _images(orders: Orders) -> Sequence[bytes]:
    if not orders.photos:
        return [as_jpeg(natural_picture())]
    try:
        return [Path(photo).read_bytes() for photo in orders.photos]
    except OSError as error:
        name = Path(error.filename or "").name
        raise MeasurementFailed(f"input {name} cannot be read any more: {error.strerror}") from None


def _read_card(folder: Path) -> Card:
    try:
        return read_card(folder)
    except (OSError, ValueError):
        raise MeasurementFailed(f"model '{folder.name}' cannot be read any more") from None


def _read_model(folder: Path) -> tuple[Card, bytes]:
    card = _read_card(folder)
    try:
        content = (folder / card.file.name).read_bytes()
    except OSError:
        raise MeasurementFailed(f"model '{folder.name}' cannot be read any more") from None
    if hashlib.sha256(content).hexdigest() != card.file.sha256:
        raise MeasurementFailed(f"model '{folder.name}': its file is not the one that its card describes")
    return card, content


def _open_model(runtime: RuntimeName, content: bytes, card: Card, threads: int) -> Run:
    try:
        return open_model(runtime, content, card, threads)
    except SessionError as error:
        raise MeasurementFailed(f"model '{card.name}': {error}") from None


def _weigh_memory(orders: Orders, emit: Emit) -> None:
    (job,) = orders.jobs
    entry, folder = job.entry, Path(job.folder)

    def load() -> Run:
        card, content = _read_model(folder)
        return _open_model(entry.runtime, content, card, entry.threads)

    import_runtime(entry.runtime)
    memory = weigh(entry.name, _read_card(folder).input, load)
    if memory is not None:
        emit(MemoryReport(memory=memory))


if __name__ == "__main__":
    sys.exit(main())
