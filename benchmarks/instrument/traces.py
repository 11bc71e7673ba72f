"""Long interleaved traces of equal sessions of a model, and of sessions with a known amount of more work.

Each launch is a new process with the equal sessions `a1` to `a4`, and the slower sessions `slow3`, `slow5`
and `slow10`, whose runs do 3, 5 and 10 percent more work. The traces are split into disjoint segments, each
as large as a quick or standard benchmark. So they give many verdicts whose correct answer is known.
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

from benchmarks.instrument.launch import calibrate, extra_work, measure_launch
from benchmarks.results import Record, Results
from models.zoo.statistics import holm, wilson
from models.zoo.verdicts import bootstrap, verdict

SLOWER = {"slow3": 0.03, "slow5": 0.05, "slow10": 0.10}
ALIKE = ("a1", "a2", "a3", "a4")
PAIRS_ALIKE = (("a2", "a1"), ("a4", "a3"))
BLOCK_RUNS = 32


def record_launch(results: Results, folder: Path, rounds: int) -> bool:
    """Run and record one launch; return whether the machine was quiet meanwhile."""
    calibration = calibrate(results, folder)
    work = {name: extra_work(calibration, share) for name, share in SLOWER.items()}
    number = len(results.of("trace-launch"))
    launch = measure_launch(number, folder, dict.fromkeys(ALIKE, 0) | work, rounds, BLOCK_RUNS)
    results.append("trace-launch", model=folder.name, at=time.time(), work=work, **launch)
    quiet: bool = launch["quiet"]
    return quiet


@dataclass(frozen=True)
class Segment:
    """A part of the traces that is as large as one benchmark.

    `medians`: for each session and launch, the median of each round.
    """

    medians: Mapping[str, Mapping[int, Sequence[float]]]

    def ratios(self, entry: str, *references: str) -> dict[int, list[float]]:
        """Return, by launch, the log-ratios of the medians of session `entry` to the medians of `references`.

        If several sessions are given as references, the geometric mean of their medians is used.
        """
        return {
            launch: (
                np.log(np.array(medians))
                - np.mean([np.log(np.array(self.medians[name][launch])) for name in references], axis=0)
            ).tolist()
            for launch, medians in self.medians[entry].items()
        }


def segments(launches: Sequence[Record], per_segment: int, rounds: int) -> list[Segment]:
    """Return disjoint segments of `per_segment` launches with `rounds` rounds each.

    For each window of rounds, launches are grouped differently, so that a few launches do not determine all
    verdicts.
    """
    parts = []
    windows = min((len(launch["medians_ns"]["a1"]) for launch in launches), default=0) // rounds
    shuffle = random.Random(0)
    for number in range(windows):
        order = list(range(len(launches)))
        shuffle.shuffle(order)
        for start in range(0, len(order) - per_segment + 1, per_segment):
            group = order[start : start + per_segment]
            window = slice(number * rounds, (number + 1) * rounds)
            parts.append(
                Segment(
                    {
                        name: {launch: launches[launch]["medians_ns"][name][window] for launch in group}
                        for name in (*ALIKE, *SLOWER)
                    }
                )
            )
    return parts


@dataclass(frozen=True)
class PValues:
    """The comparisons in a segment, each as its mean log-ratio and its p value by the bootstrap.

    `alike` has the comparisons of the pairs of equal sessions in PAIRS_ALIKE. `slower` has, by the name of
    each slower session, its comparison with the equal sessions `a1` and `a2`. The p values in `slower` are
    adjusted for the number of slower sessions, as in a benchmark.
    """

    alike: tuple[tuple[float, float], ...]
    slower: dict[str, tuple[float, float]]


def judge(segment: Segment) -> PValues:
    """Compute mean log-ratio and p value of every comparison in a segment by the bootstrap."""
    alike = []
    for entry, reference in PAIRS_ALIKE:
        estimate = bootstrap(segment.ratios(entry, reference))
        alike.append((estimate.mean, estimate.p))
    # two sessions are the reference, because a benchmark also measures its baseline twice
    estimates = {name: bootstrap(segment.ratios(name, "a1", "a2")) for name in SLOWER}
    adjusted = holm([estimate.p for estimate in estimates.values()])
    slower = {
        name: (estimate.mean, p) for (name, estimate), p in zip(estimates.items(), adjusted, strict=True)
    }
    return PValues(tuple(alike), slower)


def rates(judged: Sequence[PValues], level: float) -> dict[str, tuple[int, int, float, float]]:
    """Return, for each kind of session, how many of its verdicts are hits.

    The four values of a kind are the number of hits, the number of verdicts, and the two limits of the 95 %
    interval of the share of hits. `level` is the significance level of the verdicts.

    A hit is a verdict that reports a difference. For the kind `alike`, which compares equal sessions, it is
    any verdict but `indistinguishable`, and it is wrong. For every other kind, which compares a slower
    session with equal ones, it is the verdict `slower`, and it is right.
    """
    false = [
        verdict(mean, p, level) != "indistinguishable" for segment in judged for mean, p in segment.alike
    ]
    counted = {"alike": (sum(false), len(false))}
    for name in SLOWER:
        hits = [verdict(*segment.slower[name], level) == "slower" for segment in judged]
        counted[name] = (sum(hits), len(hits))
    return {name: (hits, n, *wilson(hits, n)) for name, (hits, n) in counted.items()}


def true_slowdowns(launches: Sequence[Record]) -> dict[str, tuple[float, float, float]]:
    """Return the slowdown of each slower session over all launches, as a share, with its 95 % interval."""
    whole = Segment(
        {
            name: {number: launch["medians_ns"][name] for number, launch in enumerate(launches)}
            for name in (*ALIKE, *SLOWER)
        }
    )
    slowdowns = {}
    for name in SLOWER:
        estimate = bootstrap(whole.ratios(name, "a1", "a2"))
        slowdowns[name] = (math.expm1(estimate.mean), math.expm1(estimate.low), math.expm1(estimate.high))
    return slowdowns


def median_ms(launches: Sequence[Record]) -> float:
    """Return the model's p50 in milliseconds over all launches."""
    medians = [median for launch in launches for name in ALIKE for median in launch["medians_ns"][name]]
    return statistics.median(medians) / 1e6
