"""Whether one network really names more images right than another: judged on the same images, in pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.zoo.statistics import Z_95, binomial_cdf, binomial_pmf

BOOTSTRAPS = 10_000


@dataclass(frozen=True)
class Paired:
    """Two networks on the same `n` images.

    `only_first`, `only_second`: images that only the one names right. `difference`: the first's accuracy less
    the second's, with its 95 % interval from `low` to `high`. `p`: two-sided mid-p of McNemar's test.
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float


def compare(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """Compare which images two networks name right, each bool (n,).

    The interval is Agresti and Min's (Statistics in Medicine 24, 2005), Wald's with half an image added to
    each count. Raises ValueError where there are no images or not as many.
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise ValueError(f"answers of shapes {first.shape} and {second.shape} cannot be paired")
    n = len(first)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    share_b, share_c = (b + 0.5) / (n + 2), (c + 0.5) / (n + 2)
    centre = share_b - share_c
    half = Z_95 * math.sqrt((share_b + share_c - centre**2) / (n + 2))
    return Paired(n, b, c, (b - c) / n, centre - half, centre + half, mcnemar(b, c))


def mcnemar(b: int, c: int) -> float:
    """The two-sided mid-p of McNemar's test for `b` and `c` images that only the one or the other got right.

    Under no difference each such image falls to either side like a coin. The mid-p counts half of the outcome
    that was seen: Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91 (2013), who find it
    nearly always to keep its level, where the exact test is needlessly strict.
    """
    n, less = b + c, min(b, c)
    if n == 0 or b == c:
        return 1.0
    return min(1.0, 2 * binomial_cdf(less, n, 0.5) - binomial_pmf(less, n, 0.5))


@dataclass(frozen=True)
class Gain:
    """What a change brought over `seeds` trainings with and as many without it, judged on `n` images.

    `difference`: mean accuracy with it less without. `low`, `high`: 95 % bootstrap interval that redraws
    images and seeds. `p`: two-sided, Student's t test of the seeds' differences; `by_seed`: those.
    """

    n: int
    seeds: int
    difference: float
    low: float
    high: float
    p: float
    by_seed: tuple[float, ...]


def gain(with_it: NDArray[np.bool_], without: NDArray[np.bool_], seed: int = 0) -> Gain:
    """Judge a change by which images each training names right, bool (seeds, n), row by row the same seed.

    Images and seeds are redrawn independently, each image with all of its seeds, as both could have been
    others. Raises ValueError for fewer than two seeds or shapes that differ.
    """
    from scipy import stats

    if with_it.shape != without.shape or with_it.ndim != 2 or len(with_it) < 2:
        raise ValueError(
            f"answers of shapes {with_it.shape} and {without.shape}: two seeds or more are needed"
        )
    differences = with_it.astype(np.float64) - without
    seeds, n = differences.shape
    random = np.random.default_rng(seed)
    drawn = np.empty(BOOTSTRAPS)
    for index in range(BOOTSTRAPS):
        weights = np.bincount(random.integers(0, seeds, seeds), minlength=seeds) / seeds
        drawn[index] = (weights @ differences)[random.integers(0, n, n)].mean()
    by_seed = differences.mean(1)
    spread = by_seed.std()
    p = float(stats.ttest_1samp(by_seed, 0).pvalue) if spread > 0 else float(by_seed[0] == 0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Gain(n, seeds, float(by_seed.mean()), float(low), float(high), p, tuple(map(float, by_seed)))
