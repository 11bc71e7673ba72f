"""Find which entries of a benchmark are faster or slower than a reference entry.

The rule is that of models/zoo/verdicts.py. The baseline is measured twice. If it is the reference, entries
are compared with the geometric mean of both measurements. The p values of all compared entries of a
benchmark, except the control, are adjusted by Holm's method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.zoo.statistics import holm
from models.zoo.verdicts import MIN_ROUNDS, LogRatios, Verdict, bootstrap, verdict
from service.bench.bundle import BenchStage, Block, Bundle


@dataclass(frozen=True, slots=True)
class Comparison:
    """An object compares an entry with a reference entry.

    `ratio` is the time of the entry divided by the time of the reference, so above 1 is slower. `low` and
    `high` are the ends of its 95 % interval; they are None for fewer than MIN_ROUNDS rounds. `p` is the
    two-sided p value. `adjusted_p` is the p value after Holm's method over all entries that are compared with
    the reference, except controls. For a control, it is equal to `p`.
    """

    entry: str
    reference: str
    rounds: int
    ratio: float
    low: float | None
    high: float | None
    p: float
    adjusted_p: float
    verdict: Verdict

    @property
    def speedup(self) -> tuple[float, float | None, float | None]:
        """Speed-up over the reference, and the two ends of its 95 % interval.

        The ends are None if there are too few rounds.
        """
        low, high = (None if end is None else 1 / end for end in (self.high, self.low))
        return 1 / self.ratio, low, high


def compare_entries(bundle: Bundle, reference: str, entries: Sequence[str] | None = None) -> list[Comparison]:
    """Compare `entries` with `reference`. By default, all entries except the reference are compared.

    An entry is skipped if it and the reference have no round in common. p values are adjusted together,
    except those of controls, which are not hypotheses of interest.
    """
    names = entries if entries is not None else [e.name for e in bundle.entries if e.name != reference]
    ratios = {name: values for name in names if (values := log_ratios(bundle, name, reference))}
    estimates = {name: bootstrap(values) for name, values in ratios.items()}
    family = [name for name in estimates if not bundle.entry(name).control]
    adjusted = dict(zip(family, holm([estimates[name].p for name in family]), strict=True))
    comparisons = []
    for name, estimate in estimates.items():
        adjusted_p = adjusted.get(name, estimate.p)
        rounds = sum(map(len, ratios[name].values()))
        few = rounds < MIN_ROUNDS
        comparisons.append(
            Comparison(
                entry=name,
                reference=reference,
                rounds=rounds,
                ratio=math.exp(estimate.mean),
                low=None if few else math.exp(estimate.low),
                high=None if few else math.exp(estimate.high),
                p=estimate.p,
                adjusted_p=adjusted_p,
                verdict=verdict(estimate.mean, adjusted_p),
            )
        )
    return comparisons


def log_ratios(bundle: Bundle, entry: str, reference: str) -> LogRatios:
    """Return the log-ratios of `entry` and `reference` by launch, one for each round that has both.

    A log-ratio is the logarithm of the median of `entry` divided by the median of `reference`. If the
    reference has a control, the geometric mean of the medians of reference and control is used, because both
    measure the same model in the same way.
    """
    mine = round_medians(bundle, entry)
    twins = [reference, *(twin for twin in _twins(bundle, reference) if twin != entry)]
    theirs = [round_medians(bundle, twin) for twin in twins]
    ratios: dict[int, list[float]] = {}
    for launch, number in sorted(mine.keys() & set.intersection(*(set(medians) for medians in theirs))):
        log_reference = sum(math.log(medians[launch, number]) for medians in theirs) / len(theirs)
        ratios.setdefault(launch, []).append(math.log(mine[launch, number]) - log_reference)
    return ratios


def _twins(bundle: Bundle, reference: str) -> list[str]:
    """Return the names of the controls of an entry. For a control, return the entry that it repeats."""
    of = bundle.entry(reference)
    return [
        entry.name
        for entry in bundle.entries
        if entry.control != of.control
        and (entry.model, entry.runtime, entry.threads, entry.via)
        == (of.model, of.runtime, of.threads, of.via)
    ]


def round_medians(bundle: Bundle, entry: str) -> dict[tuple[int, int], float]:
    """Return the entry's median nanoseconds per image in each round, by (launch, round)."""
    stage = bundle.stage_of(entry)
    return {
        (block.launch, block.round): max(_median(block, stage), 1.0)
        for block in bundle.blocks_of(entry)
        if block.durations_ns.get(stage)
    }


def _median(block: Block, stage: BenchStage) -> float:
    return float(np.median(np.array(block.durations_ns[stage]))) / block.images
