"""Intervals, p values and percentiles, which models, service and benchmarks share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

import numpy as np

Z_95 = NormalDist().inv_cdf(0.975)
"""Within this many standard deviations on each side of the mean is 95 % of a normal distribution."""
CONFIDENCE = 0.99
"""Confidence with which the upper bound of a percentile is not too low."""
T = TypeVar("T")
_NEARLY_NORMAL = 1000
"""Degrees of freedom above which the normal distribution replaces Student's t distribution."""


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion (JASA 22, 1927).

    Its bounds are sensible near 0 and 1 and for small n. For n = 0, it is (0, 1). `n` may be a fraction, as
    an effective sample size can be. Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")
    if n == 0:
        return 0.0, 1.0
    share, z_squared = successes / n, Z_95**2
    centre = (share + z_squared / (2 * n)) / (1 + z_squared / n)
    half = Z_95 / (1 + z_squared / n) * math.sqrt(share * (1 - share) / n + z_squared / (4 * n * n))
    # At 0 and n the exact bounds are 0 and 1; the formula gives almost these, because of rounding.
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number by Holm's method (Scand. J. Stat. 6, 1979).

    They are in the order of `p_values`.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def binomial_pmf(k: int, n: int, p: float) -> float:
    """Return the probability of exactly `k` successes in `n` trials.

    `p` is the probability of success in one trial, and lies between 0 and 1.
    """
    # in logarithms: the first terms of a large n are smaller than any float
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return the probability of at most `k` successes in `n` trials.

    `p` is the probability of success in one trial, and lies between 0 and 1.
    """
    if k >= n:
        return 1.0
    return min(1.0, math.fsum(_terms(k, n, p)))


def _terms(k: int, n: int, p: float) -> Iterator[float]:
    """Yield the probabilities of exactly k, k - 1, ... successes in `n` trials.

    This ends when the sum of the remaining probabilities is smaller than rounding errors.
    """
    total = 0.0
    for i in range(k, -1, -1):
        term = binomial_pmf(i, n, p)
        total += term
        yield term
        # below the mean each term is smaller than the one before, by a growing factor
        if i < n * p and term * i <= total * 1e-17:
            return


def student_p(t: float, degrees: int) -> float:
    """Return the two-sided p value of `t` in Student's t distribution with `degrees` degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(abs(t), math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees > _NEARLY_NORMAL:
        return 2 * NormalDist().cdf(-abs(t))
    term = total = 1.0
    if degrees % 2:
        term = total = cosine
        for k in range(3, degrees, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        within = 2 / math.pi * (angle + (sine * total if degrees > 1 else 0.0))
    else:
        for k in range(2, degrees, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        within = sine * total
    return min(1.0, max(0.0, 1 - within))


def student_95(degrees: int) -> float:
    """Return the t for which Student's t distribution has 95 % of its probability between -t and t."""
    return student_quantile(degrees, 0.05)


@functools.cache
def student_quantile(degrees: int, p: float) -> float:
    """Return the t whose two-sided p value `student_p` is `p`. `p` must be over 0 and below 1."""
    low, high = 0.0, 1.0
    while student_p(high, degrees) > p:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, degrees) > p else (low, middle)
    return high


@functools.lru_cache(maxsize=1024)
def slowest_allowed(n: int, fraction: float, confidence: float = CONFIDENCE) -> int:
    """Return the largest t with `binomial_cdf(t, n, 1 - fraction) <= 1 - confidence`.

    If the result t is at least 1, the t-th largest of n independent samples is an upper bound of the
    percentile `fraction` with this confidence. If no t from 1 to n satisfies the condition, the result is 0
    if t = 0 satisfies it, and -1 if not. This is MLPerf's early stopping in its conservative form
    (inference_rules.adoc of mlcommons/inference_policies). Raises ValueError unless fraction and confidence
    lie between 0 and 1.
    """
    if not (0 < fraction < 1 and 0 < confidence < 1):
        raise ValueError(f"fraction {fraction} and confidence {confidence} must lie between 0 and 1")
    if n < 1:
        return -1
    cumulative = 0.0
    for t in range(n + 1):
        cumulative += binomial_pmf(t, n, 1 - fraction)
        if cumulative > 1 - confidence:
            return t - 1
    return n


@functools.cache
def samples_needed(fraction: float) -> int:
    """Return how many samples there must be before the percentile `fraction` is shown.

    `fraction` is at least 0 and below 1. Up to the median, the number is 1. Above the median, it is the
    smallest n for which, with a probability of CONFIDENCE, at least two of n independent samples are larger
    than the percentile (`slowest_allowed` is then 1).
    """
    if fraction <= 0.5:
        return 1
    low, high = 1, 2
    while slowest_allowed(high, fraction) < 1:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if slowest_allowed(middle, fraction) < 1 else (low, middle)
    return high


MIN_SAMPLES: dict[float, int] = {fraction: samples_needed(fraction) for fraction in (0.50, 0.90, 0.95, 0.99)}
"""The percentiles that are shown, each with the number of samples that it needs."""


def highest(items: Iterable[T], value: Callable[[T], float]) -> list[T]:
    """Return all items for which `value` is highest, in the order of `items`."""
    values = [(item, value(item)) for item in items]
    most = max((each for _, each in values), default=0.0)
    return [item for item, each in values if each == most]


def percentile(samples: Sequence[int], fraction: float) -> int | None:
    """Return the smallest sample such that at least the share `fraction` of all samples does not exceed it.

    Return None if there are fewer samples than `samples_needed`.
    """
    if len(samples) < samples_needed(fraction):
        return None
    return sorted(samples)[math.ceil(fraction * len(samples)) - 1]


@dataclass(frozen=True, slots=True)
class PercentileBound:
    """The percentile `fraction` of `n` durations, in nanoseconds.

    `estimate_ns` is the smallest duration such that at least the share `fraction` of all does not exceed it.
    `bound_ns` is an upper bound of the percentile.
    """

    fraction: float
    n: int
    estimate_ns: int
    bound_ns: int


def percentile_bound(
    samples_ns: Sequence[int], fraction: float, confidence: float = CONFIDENCE
) -> PercentileBound | None:
    """Return the percentile `fraction` of durations, with its upper bound.

    The bound is the t-th largest sample, where `slowest_allowed` gives t. Return None if there are too few
    samples for a bound. Raises ValueError unless fraction and confidence lie between 0 and 1.
    """
    n = len(samples_ns)
    allowed = slowest_allowed(n, fraction, confidence)
    if allowed < 1:
        return None
    ordered = np.sort(np.asarray(samples_ns, dtype=np.int64))
    return PercentileBound(fraction, n, int(ordered[math.ceil(fraction * n) - 1]), int(ordered[n - allowed]))
