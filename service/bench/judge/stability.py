"""Stability of latencies: of the warm-up, and from the first to the last run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOWS_IN_A_ROW = 3
MAX_WINDOWS = 10
STABLE_WITHIN = 1.05
DRIFT_BEYOND = 1.05


def is_stable(window_p50_ns: Sequence[float]) -> bool:
    """Return whether the medians of the last three windows are within 5 % of each other."""
    last = window_p50_ns[-WINDOWS_IN_A_ROW:]
    return len(last) == WINDOWS_IN_A_ROW and max(last) <= STABLE_WITHIN * min(last)


def drift(samples_ns: Sequence[float]) -> float | None:
    """Return the median of the last third of the samples divided by the median of the first third.

    Return None for fewer than 3 samples, or if the median of the first third is 0.
    """
    third = len(samples_ns) // 3
    if third == 0:
        return None
    first, last = np.median(samples_ns[:third]), np.median(samples_ns[-third:])
    return float(last / first) if first else None


def drifted(ratio: float) -> bool:
    """Return whether a ratio from `drift` differs from 1 by more than 5 %, in either direction."""
    return not 1 / DRIFT_BEYOND <= ratio <= DRIFT_BEYOND
