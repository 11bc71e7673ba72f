"""Estimate the effect of a change on accuracy by a bootstrap over images and seeds together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOOTSTRAPS = 10_000


@dataclass(frozen=True)
class Gain:
    """Effect of a change on accuracy, from `seeds` trainings with the change and as many without it.

    The networks are tested on the same `n` images.

    `difference`: mean accuracy with the change, minus mean accuracy without it. `low`, `high`: 95 % bootstrap
    interval over images and seeds. `by_seed`: difference for each seed. `p`: two-sided p-value of Student's t
    test on `by_seed`.
    """

    n: int
    seeds: int
    difference: float
    low: float
    high: float
    p: float
    by_seed: tuple[float, ...]


def gain(with_it: NDArray[np.bool_], without: NDArray[np.bool_], seed: int = 0) -> Gain:
    """Estimate how a change of the training affects accuracy, from networks with and without the change.

    `with_it`, `without`: whether each image was classified correctly, bool (seeds, n). Rows at the same
    position belong to networks that were trained with the same seed. The bootstrap draws images and seeds
    independently, from random numbers that `seed` determines. Raises ValueError if the shapes differ or there
    are fewer than two seeds.
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
