"""Whether a way to train really gains: judged over images and seeds together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOOTSTRAPS = 10_000


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
