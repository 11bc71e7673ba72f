"""Measure both networks of a gate: accuracy on the same pictures, latency launch by launch until decided."""

from __future__ import annotations

import functools
import random
import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.bench.bundle import GateReading
from service.bench.measure.machine_watch import MachineWatch, violations
from service.bench.measure.messages import BlockReport, Done, WorkerConfig
from service.bench.measure.plan import Plan, Repetitions, Request, make_plan
from service.bench.measure.process import Cancelled, run_worker
from service.errors import ModelUnavailable
from service.evaluation.assemble import assemble
from service.evaluation.choose import choose
from service.evaluation.classes import mapping_for
from service.evaluation.progress import Progress
from service.evaluation.readers.read import read_dataset
from service.evaluation.result import Data, Evaluation
from service.evaluation.run import Runner
from service.gate.decision import (
    MAX_LAUNCHES,
    AccuracyJudgement,
    LatencyJudgement,
    judge_accuracy,
    judge_average_precision,
    judge_latency,
    log_ratios,
)
from service.inference.registry import Registry
from service.text.display import counted, shown

ROUNDS_PER_LAUNCH = 24
BLOCK_RUNS = 8
"""Runs of a network in a round, after two that are not counted."""
WARM_UP_S = 0.3
"""Least seconds of warm-up of each network in each launch."""
_BASE, _AGAIN, _NEW = "base", "base#again", "new"

Show = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done, 0 to 1."""


@dataclass(frozen=True)
class Measured:
    """Latency after some launches. `judgement`: None without a complete launch; `disturbances`: in words."""

    judgement: LatencyJudgement | None
    disturbances: tuple[str, ...]


@dataclass(frozen=True)
class Evaluated:
    """Accuracy on a data set. `notes`: which of its pictures do not count, in words."""

    data: str
    judgement: AccuracyJudgement
    notes: tuple[str, ...]


def measure_latency(zoo: Registry, max_slower: float, stop: threading.Event, show: Show) -> Measured:
    """Measure launches of `base`, `base` again and `new` until decided, MAX_LAUNCHES are made, or `stop`.

    It goes on while the base differs from itself, too: if that was chance, further launches show it.

    An incomplete launch does not count. Raises MeasurementFailed if a network cannot be run.
    """
    plan = make_plan(
        zoo,
        Request(models=(_BASE, _NEW), baseline=_BASE),
        repetitions=Repetitions(
            launches=MAX_LAUNCHES,
            rounds=ROUNDS_PER_LAUNCH,
            block_runs=BLOCK_RUNS,
            block_s=0.0,
            server_launches=1,
            trial_queries=1,
        ),
    )
    new: dict[int, list[float]] = {}
    control: dict[int, list[float]] = {}
    readings: list[GateReading] = []
    judgement: LatencyJudgement | None = None
    for launch in range(MAX_LAUNCHES):
        so_far = "" if judgement is None else f", {judgement.ratio - 1:+.1%} so far"
        doing = f"launch {launch + 1}{so_far}"
        watch = MachineWatch("during", launch)
        try:
            medians, cpu_s = _launch(plan, launch, stop, functools.partial(show, doing))
        except Cancelled:
            break
        readings.append(watch.read(cpu_s))
        new[launch], control[launch] = log_ratios(medians[_BASE], medians[_AGAIN], medians[_NEW])
        judgement = judge_latency(new, control, max_slower)
        if judgement.outcome != "undecided":
            break
    return Measured(judgement, tuple(violations(readings)))


def _launch(
    plan: Plan, launch: int, stop: threading.Event, show: Callable[[float], None]
) -> tuple[dict[str, list[float]], float]:
    """Run one worker process; return the median nanoseconds of each entry's rounds, and its CPU seconds."""
    entries = list(plan.worker_entries)
    random.Random(f"{plan.configuration.seed} {launch}").shuffle(entries)  # the order of loading matters too
    config = WorkerConfig(
        launch=launch,
        scenario="single-stream",
        entries=tuple(entries),
        order=plan.orders[launch],
        block_runs=plan.configuration.block_runs,
        block_s=plan.configuration.block_s,
        warm_up_s=WARM_UP_S,
        cores=plan.cores,
        seed=plan.configuration.seed,
    )
    medians: dict[str, list[float]] = {entry.entry.name: [] for entry in entries}
    cpu_s = 0.0
    show(0.0)
    for report in run_worker(config, stop.is_set):
        if isinstance(report, BlockReport):
            block = report.block
            medians[block.entry].append(max(1.0, statistics.median(block.durations_ns["inference"])))
            show((block.round * len(entries) + block.position + 1) / (ROUNDS_PER_LAUNCH * len(entries)))
        elif isinstance(report, Done):
            cpu_s = report.cpu_s
    return medians, cpu_s


def measure_accuracy(
    zoo: Registry,
    data: Path,
    mapping_file: Path | None,
    images: Path | None,
    max_loss: float,
    *,
    scratch: Path,
    threads: int,
    max_pixels: int,
    stop: threading.Event,
    show: Show,
) -> Evaluated | None:
    """Evaluate `base` and `new` on the labelled pictures in `data`; None if `stop` was set meanwhile.

    `scratch`: a folder for what is computed. Raises InvalidDataset for pictures that cannot judge both,
    InvalidParameter for a mapping that does not fit, and ModelUnavailable if a network cannot be run.
    """
    started_at = datetime.now(UTC)
    dataset = read_dataset(data, images)
    mapping = mapping_for(mapping_file, dataset.name, dataset.class_names)
    chosen = choose(zoo, dataset, mapping, (_BASE, _NEW))
    total = len(dataset.pictures)
    doing = f"accuracy on {dataset.name}"
    with Progress(scratch, dataset.path) as progress:
        runner = Runner(dataset, chosen.subjects, progress, threads=threads, max_pixels=max_pixels)
        run = runner.run(lambda done: show(f"{doing}: {done}/{total}", done / total), stop)
        if run.interrupted:
            return None
        assembled = assemble(dataset, mapping, chosen, runner, run, started_at=started_at)
    for name, reason in assembled.left_out.items():
        raise ModelUnavailable(f"--{name}: {reason}")
    evaluation = assembled.evaluation
    return Evaluated(dataset.name, _judged(evaluation, max_loss), _not_counted(evaluation.data))


def _judged(evaluation: Evaluation, max_loss: float) -> AccuracyJudgement:
    base, new = (evaluation.model(name) for name in (_BASE, _NEW))
    assert base is not None
    assert new is not None
    if base.classification is not None and new.classification is not None:
        return judge_accuracy(base.classification.right, new.classification.right, max_loss)
    (pair,) = evaluation.pairs
    assert (pair.first, pair.second) == (_BASE, _NEW)
    assert base.detection is not None
    objects = base.detection.objects
    return judge_average_precision(base.n, objects, pair.difference, pair.low, pair.high, max_loss)


def _not_counted(data: Data) -> tuple[str, ...]:
    """Say how many pictures do not count, and the first of each kind."""
    notes = []
    conflicting = [each.pictures[0] for each in data.conflicts]
    kinds: Sequence[tuple[str, Sequence[str]]] = (
        ("cannot be read", [f"{each.picture}: {each.reason}" for each in data.unreadable]),
        ("is a copy of another", [each.picture for each in data.duplicates]),
        ("has copies with other labels", conflicting),
    )
    for words, names in kinds:
        if names:
            count = counted(len(names), "picture", "pictures")
            notes.append(f"not counted, {words}: {count}, {shown(names[0])}")
    return tuple(notes)
