"""Measure both networks of a gate.

Their accuracy is measured on the same pictures, and their latency launch by launch until the verdict is
certain.
"""

from __future__ import annotations

import functools
import random
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from models.zoo.display import counted, joined, shown
from service.bench.bundle import GateReading
from service.bench.measure.machine_watch import MachineWatch, violations
from service.bench.measure.messages import BlockReport, Done, WorkerConfig
from service.bench.measure.plan import Plan, Repetitions, Request, make_plan
from service.bench.measure.process import Cancelled, run_worker
from service.cli.gate.decision import (
    MAX_LAUNCHES,
    MIN_LAUNCHES,
    AccuracyJudgement,
    LatencyJudgement,
    judge_accuracy,
    judge_average_precision,
    judge_latency,
    log_ratios,
)
from service.errors import ModelUnavailable
from service.evaluation.assemble import assemble
from service.evaluation.choose import Chosen, choose
from service.evaluation.classes import LEFT_OUT, composed, mapping_for
from service.evaluation.dataset import Dataset
from service.evaluation.progress import Progress
from service.evaluation.readers.read import read_dataset
from service.evaluation.result import Data, Evaluation
from service.evaluation.run import Runner
from service.inference.registry import Registry

ROUNDS_PER_LAUNCH = 24
BLOCK_RUNS = 8
"""Number of counted runs of a network in a round. Two further runs before them are not counted."""
WARM_UP_S = 0.3
"""Minimum seconds of warm-up of each network in each launch."""
_MOST_NAME = 60
"""Maximum number of characters of a class's name in a sentence."""
_BASE, _AGAIN, _NEW = "base", "base#again", "new"

Show = Callable[[str, float], None]
"""Function that shows the progress.

It gets the current step in words, and the share of this step that is done, 0 to 1.
"""


@dataclass(frozen=True)
class Measured:
    """The latency of both networks after some launches.

    `judgement`, `base_ms` and `new_ms` are None if no launch was completed. Each round has a median for each
    network; `base_ms` and `new_ms` are the medians of these. `disturbances` says in words what disturbed the
    machine. `needs` says in words what a decision needs; it is None if there is a judgement.
    """

    judgement: LatencyJudgement | None
    base_ms: float | None
    new_ms: float | None
    disturbances: tuple[str, ...]
    needs: str | None


@dataclass(frozen=True)
class Evaluated:
    """The accuracy of both networks on a data set.

    `data` is the name of the data set, and `pictures` the number of its pictures. `base` and `new` are the
    accuracies of the networks as shares: top-1, or average precision for detectors. `notes` say in words
    which pictures do not count.
    """

    data: str
    pictures: int
    base: float
    new: float
    judgement: AccuracyJudgement
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Unfinished:
    """An evaluation that ended early: it evaluated `done` of `total` pictures in `seconds` seconds."""

    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class Unmatched:
    """The result if there are pictures of classes that are not among the labels of the networks.

    `reason` says in words which classes these are, and what to do.
    """

    reason: str


def measure_latency(zoo: Registry, max_slower: float, stop: threading.Event, show: Show) -> Measured:
    """Measure launches of `base`, `base` again and `new`, until the latency is decided or `stop` is set.

    At most MAX_LAUNCHES are made. If the two measurements of the base differ, measuring continues, because
    further launches show whether the difference was chance.

    A launch that is not completed does not count. Raises MeasurementFailed if a network cannot be run.
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
    base_ns: list[float] = []
    new_ns: list[float] = []
    readings: list[GateReading] = []
    judgement: LatencyJudgement | None = None
    start, reached = time.monotonic(), 0.0

    def progress(doing: str, share: float) -> None:
        nonlocal reached
        reached = share
        show(doing, share)

    for launch in range(MAX_LAUNCHES):
        so_far = "" if judgement is None else f", {judgement.ratio - 1:+.1%} so far"
        doing = f"launch {launch + 1}{so_far}"
        watch = MachineWatch("during", launch)
        try:
            medians, cpu_s = _launch(plan, launch, stop, functools.partial(progress, doing))
        except Cancelled:
            break
        readings.append(watch.read(cpu_s))
        new[launch], control[launch] = log_ratios(medians[_BASE], medians[_AGAIN], medians[_NEW])
        base_ns += medians[_BASE] + medians[_AGAIN]
        new_ns += medians[_NEW]
        judgement = judge_latency(new, control, max_slower)
        if judgement.outcome != "undecided":
            break
    needs = None if judgement is not None else _launches_needed(time.monotonic() - start, reached)
    return Measured(judgement, _median_ms(base_ns), _median_ms(new_ns), tuple(violations(readings)), needs)


def _median_ms(nanoseconds: Sequence[float]) -> float | None:
    return statistics.median(nanoseconds) / 1e6 if nanoseconds else None


def _launches_needed(seconds: float, share: float) -> str:
    """Return in words what a decision needs if no launch was completed.

    `seconds` is how long the first launch has run, and `share` is the share of it that was done by then.
    """
    least = f"a decision would take {MIN_LAUNCHES} launches at least"
    if share == 0:
        return f"{least}, and the first had not begun to measure after {seconds:.1f} s"
    return f"{least}, about {MIN_LAUNCHES * seconds / share:.0f} s"


def _launch(
    plan: Plan, launch: int, stop: threading.Event, show: Callable[[float], None]
) -> tuple[dict[str, list[float]], float]:
    """Run one launch in a worker process.

    Return the medians of each entry's rounds in nanoseconds, and the CPU time of the process in seconds.
    """
    entries = list(plan.worker_entries)
    random.Random(f"{plan.configuration.seed} {launch}").shuffle(entries)  # the order of loading counts too
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
    until: float,
    stop: threading.Event,
    show: Show,
) -> Evaluated | Unfinished | Unmatched:
    """Evaluate `base` and `new` on the labelled pictures in `data`.

    Returns Unmatched if a class that has pictures is not a label of the networks, unless the mapping leaves
    this class out. Returns Unfinished if `time.monotonic` passes `until`, or `stop` is set, before the end.
    `scratch`: a folder for intermediate results. Raises InvalidDataset if the pictures do not fit both
    networks, InvalidParameter if the mapping does not fit, and ModelUnavailable if a network cannot be run.
    """
    started_at = datetime.now(UTC)
    dataset = read_dataset(data, images)
    mapping = mapping_for(mapping_file, dataset.name, dataset.class_names)
    chosen = choose(zoo, dataset, mapping, (_BASE, _NEW))
    unknown, left_out = _unmatched(dataset, mapping, chosen)
    if unknown:
        return Unmatched(_unknown_classes(dataset, unknown))
    total = len(dataset.pictures)
    doing = f"accuracy on {dataset.name}"
    end = threading.Event()

    def count(done: int) -> None:
        show(f"{doing}: {done}/{total}", done / total)
        if stop.is_set() or time.monotonic() > until:
            end.set()

    with Progress(scratch, dataset.path) as progress:
        runner = Runner(dataset, chosen.subjects, progress, threads=threads, max_pixels=max_pixels)
        run = runner.run(count, end)
        if run.interrupted:
            return Unfinished(len(run.seen), total, run.seconds)
        assembled = assemble(dataset, mapping, chosen, runner, run, started_at=started_at)
    for name, reason in assembled.left_out.items():
        raise ModelUnavailable(f"--{name}: {reason}")
    evaluation = assembled.evaluation
    notes = (*_not_counted(evaluation.data), *left_out, *evaluation.data.notes)
    base, new = (_accuracy(evaluation, name) for name in (_BASE, _NEW))
    return Evaluated(dataset.name, total, base, new, _judged(evaluation, max_loss), notes)


def _unmatched(
    dataset: Dataset, mapping: Mapping[str, str | int], chosen: Chosen
) -> tuple[dict[str, str], list[str]]:
    """Return the classes that have pictures but are no labels, with the reason for each, and notes.

    Classes that the mapping leaves out are not returned. If it leaves classes out, there is one note, which
    says how many pictures or objects they have. Otherwise, there are no notes.
    """
    counts = dataset.counts()
    unknown: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for matched in chosen.matched.values():
        for name, reason in matched.unmatched.items():
            if counts[name]:
                which = left_out if mapping.get(composed(name)) == LEFT_OUT else unknown
                which[name] = reason
    if not left_out:
        return unknown, []
    lost = counted(sum(map(counts.__getitem__, left_out)), *_things(dataset))
    return unknown, [f"not counted, left out by the mapping: {lost} of {joined(_names(left_out))}"]


def _unknown_classes(dataset: Dataset, unknown: Mapping[str, str]) -> str:
    counts = dataset.counts()
    lost = counted(sum(map(counts.__getitem__, unknown)), *_things(dataset))
    first, reason = next(iter(unknown.items()))
    return (
        f"{joined(_names(unknown))} with {lost} of {sum(counts.values())}: no label of the networks "
        f"({shown(first)[:_MOST_NAME]}: {shown(reason)}); give --mapping FILE with lines CLASS = LABEL, or "
        f"CLASS = {LEFT_OUT} to leave a class out"
    )


def _names(names: Sequence[str] | Mapping[str, str]) -> list[str]:
    return [shown(name)[:_MOST_NAME] for name in names]


def _things(dataset: Dataset) -> tuple[str, str]:
    """Return the word for what has a class in the data set, in singular and plural: picture or object."""
    return ("picture", "pictures") if dataset.task == "image-classification" else ("object", "objects")


def _accuracy(evaluation: Evaluation, name: str) -> float:
    """Return a network's accuracy as a share: top-1, or average precision for a detector."""
    model = evaluation.model(name)
    assert model is not None
    return model.accuracy.value


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
    """Return a note for each reason why pictures do not count.

    Each note gives the reason, the number of pictures that do not count for this reason, and the first of
    these pictures.
    """
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
