"""Paired significance tests of accuracy on the same images: McNemar's test and a bootstrap over seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.zoo.statistics import Z_95, binomial_cdf, binomial_pmf

BOOTSTRAPS = 10_000


@dataclass(frozen=True)
class Paired:
    """Comparison of two networks on the same `n` images.

    `only_first`, `only_second`: number of images that only this network classifies correctly. `difference`:
    first accuracy minus second, with its 95 % interval `low` to `high`. `p`: two-sided mid-p of McNemar's
    test.
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float


def compare(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """Compare two networks by which images they classify correctly, each bool (n,).

    The interval is Agresti and Min's (Statistics in Medicine 24, 2005): Wald's with half an image added to
    each count. Raises ValueError if the shapes differ or there are no images.
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise ValueError(f"answers: shapes {first.shape} and {second.shape} (allowed: one shape (n,))")
    n = len(first)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    share_b, share_c = (b + 0.5) / (n + 2), (c + 0.5) / (n + 2)
    centre = share_b - share_c
    half = Z_95 * math.sqrt((share_b + share_c - centre**2) / (n + 2))
    return Paired(n, b, c, (b - c) / n, centre - half, centre + half, mcnemar(b, c))


def mcnemar(b: int, c: int) -> float:
    """Return the two-sided mid-p of McNemar's test; `b`, `c`: images that only one of the two got right.

    Under the null hypothesis both are equally likely for each such image. The mid-p counts half the
    probability of the observed outcome. Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91
    (2013), find that it nearly always holds its level, while the exact test is conservative.
    """
    n, fewer = b + c, min(b, c)
    if n == 0 or b == c:
        return 1.0
    return min(1.0, 2 * binomial_cdf(fewer, n, 0.5) - binomial_pmf(fewer, n, 0.5))


@dataclass(frozen=True)
class Gain:
    """Effect of a change on accuracy, over `seeds` pairs of trainings with and without it and `n` images.

    `difference`: mean accuracy with the change minus without. `low`, `high`: 95 % bootstrap interval over
    images and seeds. `by_seed`: difference of each seed. `p`: two-sided, Student's t test of `by_seed`.
    """

    n: int
    seeds: int
    difference: float
    low: float
    high: float
    p: float
    by_seed: tuple[float, ...]


def gain(with_it: NDArray[np.bool_], without: NDArray[np.bool_], seed: int = 0) -> Gain:
    """Measure the effect of a change by which images the trainings classify correctly.

    `with_it`, `without`: bool (seeds, n), the same seed in the same row. The bootstrap redraws images and
    seeds independently. `seed` is the bootstrap's. Raises ValueError if the shapes differ or for fewer than
    two seeds.
    """
    from scipy import stats

    if with_it.shape != without.shape or with_it.ndim != 2 or len(with_it) < 2:
        raise ValueError(
            f"answers: shapes {with_it.shape} and {without.shape} "
            f"(allowed: one shape (seeds, n) with two seeds or more)"
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
