"""A/B timing: compare two models in a few seconds, with the code of the benchmark."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from models.zoo.verdicts import bootstrap
from service.bench.measure.scenarios import one_after_another, warm_up
from service.bench.measure.subjects import Subject

ROUNDS = 9
_BLOCK_RUNS, _BLOCK_S = 5, 0.02


@dataclass(frozen=True)
class AbTiming:
    """An object holds the result of timing two models, `a` and `b`.

    `a_ns` and `b_ns` are the medians in nanoseconds. `ratio` is the time of `a` divided by the time of `b`.
    `low` and `high` are the ends of the ratio's 95 % interval.
    """

    a_ns: int
    b_ns: int
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        """Format the figures for the evidence of a finding."""
        interval = f"ratio {self.ratio:.3g}, 95 % interval {self.low:.3g} to {self.high:.3g}"
        return (
            f"{self.a_ns / 1e6:.3g} ms against {self.b_ns / 1e6:.3g} ms ({interval}, {ROUNDS} rounds in turn)"
        )


def time_in_turn(a: Subject, b: Subject) -> AbTiming:
    """Warm up both subjects, then time them in nine rounds, and compare their times.

    Each round has a block of about 20 ms of each subject. The order of the two alternates from round to
    round. The statistics are those of a benchmark with one launch (models/zoo/verdicts.py): the log-ratio of
    the two medians in each round, the interquartile mean of these log-ratios, and a bootstrap interval.
    """
    for subject in (a, b):
        warm_up(subject, "inference", _BLOCK_S)
    medians: dict[Subject, list[float]] = {a: [], b: []}
    for number in range(ROUNDS):
        for subject in (a, b) if number % 2 else (b, a):
            block = one_after_another(subject, _BLOCK_RUNS, _BLOCK_S)
            medians[subject].append(max(1.0, statistics.median(block["inference"])))
    estimate = bootstrap({0: [math.log(of_a / of_b) for of_a, of_b in zip(*medians.values(), strict=True)]})
    return AbTiming(
        a_ns=int(statistics.median(medians[a])),
        b_ns=int(statistics.median(medians[b])),
        ratio=math.exp(estimate.mean),
        low=math.exp(estimate.low),
        high=math.exp(estimate.high),
    )
