"""Which models of a benchmark are faster or slower than another one of it, by models/zoo/verdicts.py.

A reference that was measured twice, as a baseline is, is the mean of both. Over the entries of a run the p
values are adjusted after Holm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.zoo.statistics import holm
from models.zoo.verdicts import LogRatios, Verdict, bootstrap, verdict
from service.bench.bundle import BenchStage, Block, Bundle


@dataclass(frozen=True, slots=True)
class Comparison:
    """One entry against another. `ratio` is its time over the other's (above 1: slower), `low` to `high` its
    95 % interval; `p` is two-sided, `adjusted_p` after Holm over all entries compared with it."""

    entry: str
    reference: str
    rounds: int
    ratio: float
    low: float
    high: float
    p: float
    adjusted_p: float
    verdict: Verdict

    @property
    def speedup(self) -> tuple[float, float, float]:
        """How many times faster than the reference, with its interval: estimate, low, high."""
        return 1 / self.ratio, 1 / self.high, 1 / self.low


def compare_entries(bundle: Bundle, reference: str, entries: Sequence[str] | None = None) -> list[Comparison]:
    """Compare `entries` (by default all others) with `reference`; those without a common round are left out.

    The p values of the entries are adjusted together, except those of controls, which are no discovery.
    """
    names = entries if entries is not None else [e.name for e in bundle.entries if e.name != reference]
    ratios = {name: found for name in names if (found := log_ratios(bundle, name, reference))}
    estimates = {name: bootstrap(found) for name, found in ratios.items()}
    family = [name for name in estimates if not bundle.entry(name).control]
    adjusted = dict(zip(family, holm([estimates[name].p for name in family]), strict=True))
    comparisons = []
    for name, estimate in estimates.items():
        adjusted_p = adjusted.get(name, estimate.p)
        comparisons.append(
            Comparison(
                entry=name,
                reference=reference,
                rounds=sum(map(len, ratios[name].values())),
                ratio=math.exp(estimate.mean),
                low=math.exp(estimate.low),
                high=math.exp(estimate.high),
                p=estimate.p,
                adjusted_p=adjusted_p,
                verdict=verdict(estimate.mean, adjusted_p),
            )
        )
    return comparisons


def log_ratios(bundle: Bundle, entry: str, reference: str) -> LogRatios:
    """The log-ratio of the medians of `entry` and `reference` in every round that has both.

    A reference that has a control is the geometric mean of the two: it is the same thing measured twice.
    """
    mine = round_medians(bundle, entry)
    twins = [reference, *(twin for twin in _twins(bundle, reference) if twin != entry)]
    theirs = [round_medians(bundle, twin) for twin in twins]
    ratios: dict[int, list[float]] = {}
    for at in sorted(mine.keys() & set.intersection(*(set(each) for each in theirs))):
        log_reference = sum(math.log(each[at]) for each in theirs) / len(theirs)
        ratios.setdefault(at[0], []).append(math.log(mine[at]) - log_reference)
    return ratios


def _twins(bundle: Bundle, reference: str) -> list[str]:
    """The controls of that entry: the same model in the same runtime with as many threads."""
    found = bundle.entry(reference)
    return [
        each.name
        for each in bundle.entries
        if each.control != found.control
        and (each.model, each.runtime, each.threads, each.via)
        == (found.model, found.runtime, found.threads, found.via)
    ]


def round_medians(bundle: Bundle, entry: str) -> dict[tuple[int, int], float]:
    """Median nanoseconds per image of the entry in each (launch, round)."""
    stage = bundle.stage_of(entry)
    return {
        (block.launch, block.round): max(_median(block, stage), 1.0)
        for block in bundle.blocks_of(entry)
        if block.durations_ns.get(stage)
    }


def _median(block: Block, stage: BenchStage) -> float:
    return float(np.median(np.array(block.durations_ns[stage]))) / block.images
