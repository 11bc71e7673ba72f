"""Verdicts: decide whether a model of a benchmark is faster or slower than another one.

For each round, take the log-ratio of the two entries' medians; if the reference was measured twice, as a
baseline is, the reference is the mean of both. The estimate is the interquartile mean over all rounds, which
is robust against disturbed rounds. Its interval and p value come from a hierarchical bootstrap, launches
first and rounds within them, because a launch is one draw. Over the entries of a benchmark, p values are
adjusted by Holm's method. A verdict needs an adjusted p below LEVEL and a difference of at least
MIN_DIFFERENCE. LEVEL is calibrated by benchmarks/instrument so that at most one in twenty comparisons of a
model with itself gets a verdict (docs/instrument.md has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.zoo.statistics import holm
from service.bench.bundle import BenchStage, Block, Bundle

LEVEL = 0.02
MIN_DIFFERENCE = 0.01
RESAMPLES = 10_000
_INTERVAL = 0.95

Verdict = Literal["faster", "slower", "indistinguishable"]
LogRatios = Mapping[int, Sequence[float]]
"""Log-ratios of medians of the rounds, by launch."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of an entry with a reference.

    `ratio`: time of the entry divided by that of the reference (above 1: slower), `low` to `high` its 95 %
    interval; `p`: two-sided; `adjusted_p`: by Holm's method over all entries compared with the reference.
    """

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
        """Speed-up over the reference: estimate, low and high of its 95 % interval."""
        return 1 / self.ratio, 1 / self.high, 1 / self.low


def compare_entries(bundle: Bundle, reference: str, entries: Sequence[str] | None = None) -> list[Comparison]:
    """Compare `entries` (by default all others) with `reference`; entries without a common round are skipped.

    p values are adjusted together, except those of controls, which are not hypotheses of interest.
    """
    names = entries if entries is not None else [e.name for e in bundle.entries if e.name != reference]
    ratios = {name: values for name in names if (values := log_ratios(bundle, name, reference))}
    estimates = {name: bootstrap(values) for name, values in ratios.items()}
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


def verdict(log_ratio: float, adjusted_p: float, level: float = LEVEL) -> Verdict:
    """Return the verdict for a mean log-ratio with this adjusted p."""
    if adjusted_p >= level or abs(math.expm1(log_ratio)) < MIN_DIFFERENCE:
        return "indistinguishable"
    return "slower" if log_ratio > 0 else "faster"


def log_ratios(bundle: Bundle, entry: str, reference: str) -> LogRatios:
    """Return the log-ratios of the medians of `entry` and `reference`, of every round that has both.

    A reference with a control is replaced by the geometric mean of the two, which measure the same thing.
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
    """Return the names of the control of an entry, or of the entry of a control."""
    of = bundle.entry(reference)
    return [
        entry.name
        for entry in bundle.entries
        if entry.control != of.control
        and (entry.model, entry.runtime, entry.threads, entry.via)
        == (of.model, of.runtime, of.threads, of.via)
    ]


def round_medians(bundle: Bundle, entry: str) -> dict[tuple[int, int], float]:
    """Return the entry's median nanoseconds per image by (launch, round)."""
    stage = bundle.stage_of(entry)
    return {
        (block.launch, block.round): max(_median(block, stage), 1.0)
        for block in bundle.blocks_of(entry)
        if block.durations_ns.get(stage)
    }


def _median(block: Block, stage: BenchStage) -> float:
    return float(np.median(np.array(block.durations_ns[stage]))) / block.images


@dataclass(frozen=True, slots=True)
class Estimate:
    """An interquartile mean with its 95 % interval and the two-sided p value against zero."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap(values: LogRatios, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Estimate the interquartile mean of all rounds by a hierarchical bootstrap; deterministic.

    With one launch, only its rounds are resampled. Raises ValueError without values.
    """
    launches = [np.asarray(rounds, dtype=np.float64) for rounds in values.values() if len(rounds)]
    if not launches:
        raise ValueError("values: empty, nothing to resample")
    mean = float(interquartile_mean(np.concatenate(launches)))
    return estimate_from(mean, resampled_means(launches, resamples, np.random.default_rng(seed)))


def estimate_from(mean: float, resampled: NDArray[np.float64]) -> Estimate:
    """Return the estimate for a measured mean and its resampled means, float64 (resamples,)."""
    low, high = np.quantile(resampled, [(1 - _INTERVAL) / 2, (1 + _INTERVAL) / 2])
    return Estimate(mean, float(low), float(high), two_sided_p(resampled))


def interquartile_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the middle half of the values along the last axis."""
    count = values.shape[-1]
    drop = count // 4
    means: NDArray[np.float64] = np.sort(values, axis=-1)[..., drop : count - drop].mean(axis=-1)
    return means


def resampled_means(
    launches: Sequence[NDArray[np.float64]], resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return interquartile means, float64 (resamples,), of launches and rounds drawn with replacement.

    From every drawn launch, the average number of rounds per launch is drawn.
    """
    count = len(launches)
    lengths = np.array([len(rounds) for rounds in launches])
    padded = np.zeros((count, int(lengths.max())))
    for index, rounds in enumerate(launches):
        padded[index, : len(rounds)] = rounds
    rounds_each = max(1, round(float(lengths.mean())))
    drawn_launches = random.integers(0, count, (resamples, count, 1))
    uniform = random.random((resamples, count, rounds_each))
    drawn_rounds = (uniform * lengths[drawn_launches]).astype(np.int64)
    return interquartile_mean(padded[drawn_launches, drawn_rounds].reshape(resamples, count * rounds_each))


def two_sided_p(means: NDArray[np.float64]) -> float:
    """Return the two-sided p value: twice the share of means on the rarer side of zero, always above 0."""
    count = len(means)
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (count + 1))
