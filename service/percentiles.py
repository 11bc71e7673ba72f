"""Which percentiles a number of samples can carry."""

from __future__ import annotations

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
