"""Compare the accuracies of two networks on the same images by McNemar's test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.zoo.statistics import Z_95, binomial_cdf, binomial_pmf

_PRECISION = 1e-9
"""Largest allowed error of a bound that is computed in steps."""


@dataclass(frozen=True)
class Paired:
    """Comparison of two networks on the same `n` images.

    `only_first` is the number of images that only the first network classifies correctly, and `only_second`
    the number of images that only the second one does. `difference` is the first accuracy minus the second,
    with its 95 % interval `low` to `high`. `p` is the two-sided mid-p of McNemar's test.
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float


def compare(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """Compare two networks on the same images.

    `first` and `second`, bool (n,), say for each image whether the network classifies it correctly. The
    interval is Agresti and Min's (Statistics in Medicine 24, 2005): Wald's with half an image added to each
    count. Raises ValueError if the shapes differ or there are no images.
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise ValueError(f"answers: shapes {first.shape} and {second.shape} (allowed: one shape (n,))")
    n = len(first)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    return Paired(n, b, c, (b - c) / n, *interval(b, c, n), mcnemar(b, c))


def interval(b: float, c: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval that `compare` states for the difference of two accuracies.

    `b` is how many of the `n` images only the first network classifies correctly, and `c` how many only the
    second one does. They may be fractions, e.g. expected numbers when a comparison is planned.
    """
    share_b, share_c = (b + 0.5) / (n + 2), (c + 0.5) / (n + 2)
    centre = share_b - share_c
    half = Z_95 * math.sqrt((share_b + share_c - centre**2) / (n + 2))
    return centre - half, centre + half


def score_interval(b: float, c: float, n: int) -> tuple[float, float]:
    """Return Tango's 95 % score interval of the difference of two accuracies.

    `b` is how many of the `n` images only the first network classifies correctly, and `c` how many only the
    second one does. Source: Tango, Statistics in Medicine 17, 1998.

    Suppose that `b` and `c` are small, and that `b` is larger than `c`. Then Tango's upper bound is near the
    exact bound, but the upper bound of Agresti and Min (`interval`) is too low. Tango's lower bound is too
    high, but the lower bound of Agresti and Min is not. If `b` is smaller than `c`, the intervals and their
    errors are mirrored at zero.
    """
    return -_score_bound(c, b, n), _score_bound(b, c, n)


def _score_bound(b: float, c: float, n: int) -> float:
    """Return the largest difference that exceeds (b - c) / n by no more than Z_95 standard errors.

    The bound is found by the secant method. If a step of it leaves the range that contains the bound, the
    range is halved instead.
    """
    low, high = (b - c) / n, 1.0
    before, score_before = low, 0.0
    at = interval(b, c, n)[1]  # near the bound
    while high - low > _PRECISION:
        if not low < at < high:
            at = (low + high) / 2
        score = _score(b, c, n, at)
        low, high = (low, at) if score < -Z_95 else (at, high)
        fall = score - score_before
        step = (-Z_95 - score) / fall * (at - before) if fall else math.nan
        before, score_before = at, score
        at += step + math.copysign(_PRECISION / 3, step)  # beyond the bound, so that both ends move
    return high


def _score(b: float, c: float, n: int, difference: float) -> float:
    """Return (b - c) / n minus `difference`, in units of its standard error.

    The standard error is computed as if `difference` were the true difference.
    """
    # Given `difference`, the most likely share of images that only the second network classifies correctly.
    linear = (2 * n - b + c) * difference - b - c
    constant = -c * difference * (1 - difference)
    share = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    return (b - c - n * difference) / math.sqrt(variance) if variance > 0 else -math.inf


def mcnemar(b: int, c: int) -> float:
    """Return the two-sided mid-p of McNemar's test.

    `b` is how many images only the first network classifies correctly, and `c` how many only the second one
    does. Under the null hypothesis, an image that only one network classifies correctly is equally likely to
    be counted in `b` or `c`. The mid-p counts half the probability of the observed outcome. Fagerland,
    Lydersen and Laake, BMC Medical Research Methodology 13:91 (2013), find that it nearly always holds its
    level, while the exact test is conservative.
    """
    n, fewer = b + c, min(b, c)
    if n == 0 or b == c:
        return 1.0
    return min(1.0, 2 * binomial_cdf(fewer, n, 0.5) - binomial_pmf(fewer, n, 0.5))
