"""The rule by which a model of a benchmark is called faster or slower than another one of it.

Per round, the log-ratio of the two entries' medians; where the reference was measured twice, as a baseline
is, against the mean of both. The point estimate is the interquartile mean of all rounds, since a round in
which the machine did something else says nothing of the models. Its interval and p come from a hierarchical
bootstrap, launches first and rounds within them, because one launch is one draw. Over the entries of a run
the p values are adjusted after Holm. A verdict needs both an adjusted p below LEVEL and a difference of at
least MIN_DIFFERENCE. LEVEL is calibrated by benchmarks/instrument so that no more than one in twenty
comparisons of a model with itself gets a verdict (docs/instrument.md has the figures).
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
"""Launch to the log-ratio of medians of each of its rounds."""


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


def verdict(log_ratio: float, adjusted_p: float, level: float = LEVEL) -> Verdict:
    """The rule: what a mean log-ratio with this adjusted p amounts to."""
    if adjusted_p >= level or abs(math.expm1(log_ratio)) < MIN_DIFFERENCE:
        return "indistinguishable"
    return "slower" if log_ratio > 0 else "faster"


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


@dataclass(frozen=True, slots=True)
class Estimate:
    """An interquartile mean with its 95 % interval and the two-sided p of being zero."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap(values: LogRatios, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Hierarchical bootstrap of the interquartile mean of all rounds.

    The same values give the same answer. One launch alone carries no spread between launches: only its rounds
    are resampled then. ValueError without values.
    """
    launches = [np.asarray(rounds, dtype=np.float64) for rounds in values.values() if len(rounds)]
    if not launches:
        raise ValueError("there is nothing to resample")
    mean = float(interquartile_mean(np.concatenate(launches)))
    return estimate_from(mean, resampled_means(launches, resamples, np.random.default_rng(seed)))


def estimate_from(mean: float, resampled: NDArray[np.float64]) -> Estimate:
    """The estimate that resampled means, float64 (resamples,), give around the mean of what was measured."""
    low, high = np.quantile(resampled, [(1 - _INTERVAL) / 2, (1 + _INTERVAL) / 2])
    return Estimate(mean, float(low), float(high), two_sided_p(resampled))


def interquartile_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the middle half of the last axis."""
    count = values.shape[-1]
    drop = count // 4
    means: NDArray[np.float64] = np.sort(values, axis=-1)[..., drop : count - drop].mean(axis=-1)
    return means


def resampled_means(
    launches: Sequence[NDArray[np.float64]], resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Interquartile means, float64 (resamples,), of launches and their rounds drawn with replacement.

    Every launch that is drawn gives as many rounds, the average number, however many it has.
    """
    count = len(launches)
    lengths = np.array([len(rounds) for rounds in launches])
    padded = np.zeros((count, int(lengths.max())))
    for at, rounds in enumerate(launches):
        padded[at, : len(rounds)] = rounds
    each = max(1, round(float(lengths.mean())))
    drawn = random.integers(0, count, (resamples, count, 1))
    picked = (random.random((resamples, count, each)) * lengths[drawn]).astype(np.int64)
    return interquartile_mean(padded[drawn, picked].reshape(resamples, count * each))


def two_sided_p(means: NDArray[np.float64]) -> float:
    """Twice the share of resampled means on the rarer side of zero, never quite 0."""
    count = len(means)
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (count + 1))
