"""Which percentiles a number of samples can carry."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

MIN_SAMPLES: dict[float, int] = {0.50: 1, 0.90: 64, 0.95: 130, 0.99: 662}
"""Samples below which a percentile is withheld.

Above the median: the smallest n for which `binom.cdf(1, n, 1 - p) <= 0.01`, so that the largest sample bounds
the percentile with 99 % confidence (the conservative form of early stopping in MLPerf Inference,
mlcommons/inference_policies, inference_rules.adoc).
"""


def percentile(samples: Sequence[int], fraction: float) -> int | None:
    """The smallest sample that at least `fraction` of the samples do not exceed; None below MIN_SAMPLES."""
    if len(samples) < MIN_SAMPLES[fraction]:
        return None
    return sorted(samples)[math.ceil(fraction * len(samples)) - 1]


@functools.cache
def samples_needed(fraction: float) -> int:
    """Samples below which any percentile is withheld, by the rule of MIN_SAMPLES; `fraction` below 1."""
    if fraction <= 0.5:
        return 1

    def too_few(n: int) -> bool:
        return fraction**n + n * (1 - fraction) * fraction ** (n - 1) > 0.01

    low, high = 1, 2
    while too_few(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if too_few(middle) else (low, middle)
    return high
