"""Percentiles that say how far they can be trusted: MLPerf's early stopping, in its conservative form.

Of n independent samples, with t the largest number such that `binom.cdf(t, n, 1 - p) <= 1 - confidence`, the
t - 1 slowest are dropped and the slowest of the rest bounds the percentile p from above (see
inference_rules.adoc of mlcommons/inference_policies). Where not even t = 1 will do, the percentile is
withheld: below 64, 130 and 662 samples for p90, p95 and p99.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True)
class PercentileBound:
    """A percentile of `n` samples: the plain estimate, and what it does not exceed with confidence."""

    fraction: float
    n: int
    estimate_ns: int
    bound_ns: int


def percentile_bound(
    samples_ns: Sequence[int], fraction: float, confidence: float = CONFIDENCE
) -> PercentileBound | None:
    """The percentile of the samples with its upper bound; None where there are too few to bound it.

    The estimate is the smallest sample that at least `fraction` of them do not exceed. `fraction` and
    `confidence` lie strictly between 0 and 1, else ValueError.
    """
    n = len(samples_ns)
    allowed = slowest_allowed(n, fraction, confidence)
    if allowed < 1:
        return None
    ordered = np.sort(np.asarray(samples_ns, dtype=np.int64))
    return PercentileBound(fraction, n, int(ordered[math.ceil(fraction * n) - 1]), int(ordered[n - allowed]))


@lru_cache(maxsize=1024)
def slowest_allowed(n: int, fraction: float, confidence: float = CONFIDENCE) -> int:
    """The largest t such that `binom.cdf(t, n, 1 - fraction) <= 1 - confidence`; 0 or less: withhold.

    The bound is then the t-th largest of n samples.
    """
    if not (0 < fraction < 1 and 0 < confidence < 1):
        raise ValueError(f"fraction {fraction} and confidence {confidence} must lie between 0 and 1")
    if n < 1:
        return -1
    over = 1 - fraction
    log_over, log_under = math.log(over), math.log(fraction)
    total = 0.0
    for t in range(n + 1):
        # in logarithms: the first terms of a large n are smaller than any float
        log_term = (
            math.lgamma(n + 1)
            - math.lgamma(t + 1)
            - math.lgamma(n - t + 1)
            + t * log_over
            + (n - t) * log_under
        )
        total += math.exp(log_term)
        if total > 1 - confidence:
            return t - 1
    return n
