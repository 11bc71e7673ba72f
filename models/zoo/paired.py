"""Whether one network really names more images right than another, judged on the same images in pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.zoo.statistics import Z_95, binomial_cdf, binomial_pmf


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
