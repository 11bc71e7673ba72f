"""Log-probability of each picture's true class, and tests of whether one convention makes it higher."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Activation

SIGNIFICANCE = 0.01
"""Two conventions count as different if the p value is below this.

The p value is adjusted for the number of conventions."""
FLIPS = 20_000
"""Number of random sign flips of one test; the smallest p value is 1/20 001."""
LEAST_DIFFERENCE = 0.05
"""Conventions whose mean log-probabilities differ by less than this count as alike.

This holds even if the p value is small."""
_LEAST_LOG_PROBABILITY = -20.0
"""Lower limit of a picture's log-probability, so that one picture cannot decide alone."""
_SHARPNESSES = np.geomspace(0.1, 30, 25)
"""Inverse temperatures that are tried, for logits whose standard deviation over the classes is 1."""
_DIGITS = 3
"""Number of decimals of a log-probability. Smaller differences are rounding errors."""


def log_probabilities(
    logits: NDArray[np.float64], classes: Sequence[int], activation: Activation
) -> NDArray[np.float64]:
    """Return the log-probability of the true class of each picture, float64 (pictures,).

    `logits`, (pictures, classes), are the outputs as the network returns them, after `activation`. Except for
    sigmoids, one temperature is fitted to all pictures, so a convention that only makes logits larger gains
    nothing. The result is at least _LEAST_LOG_PROBABILITY for each picture.
    """
    values = logits if activation == "none" else np.log(np.maximum(logits, 1e-30))
    pictures = np.arange(len(values))
    if activation == "sigmoid":
        return np.maximum(values[pictures, classes], _LEAST_LOG_PROBABILITY)
    values = values - values.max(axis=1, keepdims=True)
    values /= values.std(axis=1).mean() or 1
    best = np.full(len(values), -np.inf)
    for sharpness in _SHARPNESSES:
        scaled = values * sharpness
        found = scaled[pictures, classes] - np.log(np.exp(scaled).sum(axis=1))
        found = np.maximum(found, _LEAST_LOG_PROBABILITY)
        if found.mean() > best.mean():
            best = found
    return best.round(_DIGITS)


def p_value(differences: NDArray[np.float64]) -> float:
    """Return the one-sided p value of a sign-flip test, which tests whether the mean is above 0.

    The test flips the signs of some of the `differences`. The p value is the share of flips after which the
    sum is at least as large as before. There are 2^n ways to flip n differences. All are tried if they are at
    most FLIPS. Otherwise, the test uses the unflipped differences and FLIPS random flips (with a fixed seed).
    Differences that are NaN are ignored.
    """
    differences = differences[~np.isnan(differences)]
    if not differences.any():
        return 1.0
    signs = _signs(len(differences))
    return float((signs @ differences >= differences.sum() - 1e-12).mean())


def adjusted(differences: NDArray[np.float64], ways: int) -> float:
    """Return the p value of `p_value` times the number of comparisons `ways`, but at most 1.

    If the mean of the differences is below LEAST_DIFFERENCE, the result is 1.
    """
    differences = differences[~np.isnan(differences)]
    if not differences.size or differences.mean() < LEAST_DIFFERENCE:
        return 1.0
    return min(1.0, ways * p_value(differences))


def interval(differences: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return the lowest and the highest mean that a one-sided `p_value` at `level` does not rule out.

    To test whether the mean can be d, d is subtracted from all differences. A flip then reverses the signs of
    some of the results. It does not lower their sum if and only if the differences that it reverses, without
    d subtracted, have a mean of at most d. So the p value is the share of flips for which this mean is at
    most d, and the limits of the interval are two quantiles of these means (Hartigan 1969, "Using Subsample
    Values as Typical Values"). For the upper limit, the test is the same with all signs reversed.
    """
    differences = differences[~np.isnan(differences)]
    if not differences.size:
        return -np.inf, np.inf
    flipped = _signs(len(differences)) < 0
    counts = flipped.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (flipped @ differences) / counts
    rank = int(np.ceil(level * len(flipped))) - 1
    low = np.sort(np.where(counts, means, -np.inf))[rank]
    high = np.sort(np.where(counts, means, np.inf))[-1 - rank]
    return float(low), float(high)


@lru_cache(2)  # all ways of one comparison have the same number of pictures
def _signs(n: int) -> NDArray[np.float64]:
    """Return the signs for `p_value`: 1 or -1 for each flip and each of `n` pictures, float64 (flips, n).

    The array is read-only.
    """
    if 2**n <= FLIPS:
        signs = np.where((np.arange(2**n)[:, None] >> np.arange(n)) & 1, -1.0, 1.0)
    else:
        random = np.random.default_rng(0).integers(0, 2, (FLIPS, n), np.int8) * 2.0 - 1
        signs = np.concatenate((np.ones((1, n)), random))
    signs.flags.writeable = False
    return signs


def best_row(scores: NDArray[np.float64]) -> int:
    """Return the index of the row of `scores` (conventions, pictures) with the highest mean.

    Rows with NaN are skipped.
    """
    return int(np.nanargmax(scores.mean(axis=1)))


def p_values(scores: NDArray[np.float64], best: int) -> list[float]:
    """Return the p value of each row of `scores` (conventions, pictures) in a comparison with row `best`.

    The best row is chosen on the same pictures that it is tested on. The p values are therefore adjusted by
    Bonferroni's method for the number of comparisons with other rows.
    """
    return [adjusted(scores[best] - other, rivals(scores)) for other in scores]


def rivals(scores: NDArray[np.float64]) -> int:
    """Return the number of rows that the best row of `scores` is compared with, but at least 1."""
    return max(1, len(scores) - 1)


def ahead(differences: NDArray[np.float64], ways: int) -> str:
    """Return text on how much higher the log-probability is with one convention than with a rival.

    `differences`: the difference for each picture. The text has `{}` where the rival's name belongs. It
    includes an interval of the mean difference. The interval is above 0 if the p value of `adjusted` is below
    SIGNIFICANCE.
    """
    differences = differences[~np.isnan(differences)]
    low, high = interval(differences, SIGNIFICANCE / ways)
    return (
        f"log-probability of the true class higher by {differences.mean():.2f} ({low:.2g} to {high:.2g}) "
        f"than with {{}}, {len(differences)} pictures"
    )
