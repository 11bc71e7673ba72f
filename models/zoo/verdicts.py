"""The rule by which one model is called faster or slower than another, from rounds that ran both.

Each round gives the log-ratio of the two models' medians. The point estimate is the interquartile mean over
all rounds: it ignores extreme rounds, which other work on the machine may have disturbed. Its interval and p
value come from a hierarchical bootstrap. This resamples launches, then rounds within them, because rounds of
one launch are not independent. A verdict needs a p below LEVEL, adjusted if several models are compared, and
a difference of at least MIN_DIFFERENCE. LEVEL is calibrated by benchmarks/instrument so that no more than one
in twenty comparisons of a model with itself gets a verdict (docs/instrument.md has the figures). With few
rounds, all of them can lie on the same side of zero by chance. The means of all resamples then do, too, and
the bootstrap's p value is too small. So the p value is never below the smallest p value of a sign test with
the same number of rounds. Intervals from fewer than MIN_ROUNDS rounds are not shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.02
MIN_DIFFERENCE = 0.01
MIN_ROUNDS = 7
"""The smallest number of rounds with which a p value (`smallest_p`) below LEVEL is possible."""
RESAMPLES = 10_000
_INTERVAL = 0.95

Verdict = Literal["faster", "slower", "indistinguishable"]
LogRatios = Mapping[int, Sequence[float]]
"""For each launch, the log-ratio of the two models' medians in each of its rounds."""


def verdict(log_ratio: float, adjusted_p: float, level: float = LEVEL) -> Verdict:
    """Return the verdict for the mean log-ratio of two models' times.

    `adjusted_p` is its p value, adjusted for the number of comparisons.
    """
    if adjusted_p >= level or abs(math.expm1(log_ratio)) < MIN_DIFFERENCE:
        return "indistinguishable"
    return "slower" if log_ratio > 0 else "faster"


@dataclass(frozen=True, slots=True)
class Estimate:
    """An interquartile mean with its interval from `low` to `high`.

    `p` is the two-sided p value of the hypothesis that the mean is zero.
    """

    mean: float
    low: float
    high: float
    p: float


def bootstrap(
    values: LogRatios, resamples: int = RESAMPLES, seed: int = 0, confidence: float = _INTERVAL
) -> Estimate:
    """Estimate the interquartile mean of all rounds by a hierarchical bootstrap.

    `seed` determines the resamples. If there is only one launch, only its rounds are resampled. `confidence`
    is the confidence of the interval. Raises ValueError if there are no values.
    """
    launches = [np.asarray(rounds, dtype=np.float64) for rounds in values.values() if len(rounds)]
    if not launches:
        raise ValueError("values: empty, nothing to resample")
    mean = float(interquartile_mean(np.concatenate(launches)))
    resampled = resampled_means(launches, resamples, np.random.default_rng(seed))
    return estimate_from(mean, resampled, sum(map(len, launches)), confidence)


def estimate_from(
    mean: float, resampled: NDArray[np.float64], rounds: int, confidence: float = _INTERVAL
) -> Estimate:
    """Return the estimate for `mean`, the interquartile mean of `rounds` values.

    `resampled`, float64 (resamples,), has the mean of each resample.
    """
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(mean, float(low), float(high), max(two_sided_p(resampled), smallest_p(rounds)))


def smallest_p(rounds: int) -> float:
    """Return the p value of a two-sided sign test of `rounds` values that are all on one side of zero.

    If all values are on one side of zero, the mean of each resample is on this side, too. The bootstrap then
    gives its smallest possible p value, even if there is only one value. The p value of the sign test is
    therefore used as a lower limit.
    """
    return min(1.0, 2.0 ** (1 - rounds))


def interquartile_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, along the last axis, the mean of the values without the lowest and the highest quarter."""
    count = values.shape[-1]
    drop = count // 4
    means: NDArray[np.float64] = np.sort(values, axis=-1)[..., drop : count - drop].mean(axis=-1)
    return means


def resampled_means(
    launches: Sequence[NDArray[np.float64]], resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return the interquartile mean of each resample, float64 (resamples,).

    Each resample is drawn in two steps. First, launches are drawn with replacement; their number is that of
    `launches`. Then rounds are drawn from each drawn launch, again with replacement; their number is the mean
    number of rounds in a launch.
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
    """Return the two-sided p value of the hypothesis that the mean is zero, from the means of the resamples.

    The means that are at most 0 are counted, and so are the means that are at least 0. With the smaller of
    these two counts, the p value is 2 * (smaller + 1) / (number of means + 1), but at most 1. Because of the
    added ones, it is never 0.
    """
    count = len(means)
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (count + 1))
