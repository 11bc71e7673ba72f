"""Long interleaved traces of one model four times over and of copies made slower by a known amount of work.

Each launch is a fresh process with sessions `a1` to `a4`, all alike, and `slow3`, `slow5`, `slow10`, whose
every run does that many per cent more work. Cut into disjoint segments as large as a quick or standard run,
they give many verdicts whose right answer is known.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.results import Record, Results
from models.zoo.card import read_card
from models.zoo.preprocess import preprocess
from models.zoo.statistics import holm, wilson
from models.zoo.verdicts import bootstrap, verdict
from service.bench.bundle import Entry
from service.bench.measure.inputs import natural_picture
from service.bench.measure.machine_watch import MAX_CLOCK_JUMP_S, MAX_OUTSIDE_LOAD, MAX_STEAL, MachineWatch
from service.bench.measure.messages import BlockReport, Done, WorkerConfig, WorkerEntry
from service.bench.measure.process import run_worker
from service.bench.measure.runtimes import open_model
from service.bench.measure.subjects import BareSession

SLOWER = {"slow3": 0.03, "slow5": 0.05, "slow10": 0.10}
ALIKE = ("a1", "a2", "a3", "a4")
PAIRS_ALIKE = (("a2", "a1"), ("a4", "a3"))
BLOCK_RUNS = 32
WARM_UP_S = 0.3


def calibrate(results: Results, folder: Path) -> Record:
    """How many dot products make a run 1 % longer, measured once and kept: with and without them by turns."""
    for kept in results.of("trace-calibration"):
        if kept["model"] == folder.name:
            return kept
    card = read_card(folder)
    run = open_model("onnxruntime", (folder / card.file.name).read_bytes(), card, 1)
    tensor = preprocess(natural_picture(), card.input)
    added = 200
    plain, longer = BareSession(run, [tensor]), BareSession(run, [tensor], added)
    for number in range(100):
        plain.run(number)
    without: list[int] = []
    with_work: list[int] = []
    for _ in range(30):
        for subject, times in ((plain, without), (longer, with_work)):
            times += [subject.run(number)["inference"] for number in range(32)]
    p50 = statistics.median(without)
    unit = (statistics.median(with_work) - p50) / added
    results.append("trace-calibration", model=folder.name, p50_ns=p50, unit_ns=unit)
    found = results.last("trace-calibration")
    assert found is not None
    return found


def record_launch(results: Results, folder: Path, rounds: int) -> bool:
    """Run one launch and keep it; whether the machine was quiet meanwhile."""
    calibration = calibrate(results, folder)
    work = {
        name: round(share * calibration["p50_ns"] / calibration["unit_ns"]) for name, share in SLOWER.items()
    }
    number = len(results.of("trace-launch"))
    names = [*ALIKE, *SLOWER]
    entries = [
        WorkerEntry(
            entry=Entry(name=name, model=folder.name, runtime="onnxruntime", threads=1),
            folder=str(folder),
            extra_work=work.get(name, 0),
        )
        for name in names
    ]
    shuffle = random.Random(number)
    shuffle.shuffle(entries)  # which session is loaded first is part of what a launch draws
    config = WorkerConfig(
        launch=number,
        scenario="single-stream",
        entries=tuple(entries),
        order=tuple(tuple(shuffle.sample(names, len(names))) for _ in range(rounds)),
        block_runs=BLOCK_RUNS,
        block_s=0.0,
        warm_up_s=WARM_UP_S,
        cores=1,
    )
    medians: dict[str, list[float]] = {name: [] for name in names}
    watch = MachineWatch("during", number)
    cpu_s = 0.0
    for report in run_worker(config, lambda: False):
        if isinstance(report, BlockReport):
            block = report.block
            medians[block.entry].append(statistics.median(block.durations_ns["inference"]))
        elif isinstance(report, Done):
            cpu_s = report.cpu_s
    reading = watch.read(cpu_s)
    quiet = (
        (reading.steal_fraction or 0) <= MAX_STEAL
        and (reading.outside_load or 0) <= MAX_OUTSIDE_LOAD
        and abs(reading.clock_jump_s) <= MAX_CLOCK_JUMP_S
    )
    results.append(
        "trace-launch",
        model=folder.name,
        quiet=quiet,
        steal=reading.steal_fraction,
        outside=reading.outside_load,
        at=time.time(),
        work=work,
        medians_ns=medians,
    )
    return quiet


@dataclass(frozen=True)
class Segment:
    """As much of the traces as one run would have: entry to launch to its rounds' medians."""

    medians: Mapping[str, Mapping[int, Sequence[float]]]

    def ratios(self, entry: str, *references: str) -> dict[int, list[float]]:
        """Log-ratios of the rounds' medians by launch, to the geometric mean of the references."""
        return {
            at: (
                np.log(np.array(mine))
                - np.mean([np.log(np.array(self.medians[each][at])) for each in references], axis=0)
            ).tolist()
            for at, mine in self.medians[entry].items()
        }


def segments(launches: Sequence[Record], per_segment: int, rounds: int) -> list[Segment]:
    """Disjoint segments of `per_segment` launches with `rounds` rounds each.

    Which launches go together changes from one stretch of rounds to the next, so that no few launches decide
    all verdicts.
    """
    found = []
    stretches = min((len(launch["medians_ns"]["a1"]) for launch in launches), default=0) // rounds
    shuffle = random.Random(0)
    for stretch in range(stretches):
        order = list(range(len(launches)))
        shuffle.shuffle(order)
        for at in range(0, len(order) - per_segment + 1, per_segment):
            group = order[at : at + per_segment]
            window = slice(stretch * rounds, (stretch + 1) * rounds)
            found.append(
                Segment(
                    {
                        name: {each: launches[each]["medians_ns"][name][window] for each in group}
                        for name in (*ALIKE, *SLOWER)
                    }
                )
            )
    return found


@dataclass(frozen=True)
class PValues:
    """What the bootstrap says of one segment: mean log-ratio and p of each comparison. `alike` has one per
    pair of equal sessions, `slower` one per copy, p adjusted among them as in a run."""

    alike: tuple[tuple[float, float], ...]
    slower: dict[str, tuple[float, float]]


def judge(segment: Segment) -> PValues:
    """Bootstrap every comparison of a segment."""
    alike = []
    for entry, reference in PAIRS_ALIKE:
        estimate = bootstrap(segment.ratios(entry, reference))
        alike.append((estimate.mean, estimate.p))
    # the baseline of a run is measured twice, and so is the copies' here
    estimates = {name: bootstrap(segment.ratios(name, "a1", "a2")) for name in SLOWER}
    adjusted = holm([estimate.p for estimate in estimates.values()])
    slower = {
        name: (estimate.mean, p) for (name, estimate), p in zip(estimates.items(), adjusted, strict=True)
    }
    return PValues(tuple(alike), slower)


def rates(judged: Sequence[PValues], level: float) -> dict[str, tuple[int, int, float, float]]:
    """Of each kind: verdicts that are not indistinguishable (copies: `slower`), all, and a 95 % interval."""
    false = [verdict(mean, p, level) != "indistinguishable" for each in judged for mean, p in each.alike]
    counted = {"alike": (sum(false), len(false))}
    for name in SLOWER:
        hits = [verdict(*each.slower[name], level) == "slower" for each in judged]
        counted[name] = (sum(hits), len(hits))
    return {name: (hits, n, *wilson(hits, n)) for name, (hits, n) in counted.items()}


def true_slowdowns(launches: Sequence[Record]) -> dict[str, tuple[float, float, float]]:
    """How much longer each copy's runs took over all launches, with a 95 % interval: what was to be found."""
    whole = Segment(
        {
            name: {at: launch["medians_ns"][name] for at, launch in enumerate(launches)}
            for name in (*ALIKE, *SLOWER)
        }
    )
    found = {}
    for name in SLOWER:
        estimate = bootstrap(whole.ratios(name, "a1", "a2"))
        found[name] = (math.expm1(estimate.mean), math.expm1(estimate.low), math.expm1(estimate.high))
    return found


def median_ms(launches: Sequence[Record]) -> float:
    """The model's p50 in milliseconds over all launches."""
    every = [median for launch in launches for name in ALIKE for median in launch["medians_ns"][name]]
    return statistics.median(every) / 1e6
