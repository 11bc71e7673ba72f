"""The log-probability of a picture's true class, and tests whether one way to prepare pictures gives more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Activation

SIGNIFICANCE = 0.01
"""Two ways differ below this p value, adjusted for the number of ways."""
FLIPS = 20_000
"""Random sign flips of one test: p values down to 1/20 001."""
_LEAST_LOG_PROBABILITY = -20.0
"""Scores are cut here, so that one picture cannot decide alone."""
_SHARPNESSES = np.geomspace(0.1, 30, 25)
"""Inverse temperatures that are tried, of logits whose standard deviation over the classes is 1."""
_DIGITS = 3
"""Decimals of a score: differences below are those of rounding."""


def log_probabilities(
    logits: NDArray[np.float64], classes: Sequence[int], activation: Activation
) -> NDArray[np.float64]:
    """Return the log-probability of each picture's class, float64 (pictures,), cut below.

    `logits` is (pictures, classes). One temperature is fitted to all pictures, except for sigmoids: what only
    makes logits larger gains nothing.
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
    """Return the one-sided p value of a positive mean, by sign flips of the paired `differences`.

    All 2^n flips where they are fewer than FLIPS, else FLIPS random ones (a fixed seed). NaN is left out.
    """
    differences = differences[~np.isnan(differences)]
    n = len(differences)
    if not differences.any():
        return 1.0
    if 2**n <= FLIPS:
        signs = np.where((np.arange(2**n)[:, None] >> np.arange(n)) & 1, -1.0, 1.0)
        return float((signs @ differences >= differences.sum() - 1e-12).mean())
    signs = np.random.default_rng(0).integers(0, 2, (FLIPS, n), np.int8) * 2.0 - 1
    as_large = int((signs @ differences >= differences.sum() - 1e-12).sum())
    return (as_large + 1) / (FLIPS + 1)


def best_row(scores: NDArray[np.float64]) -> int:
    """Return the row of `scores` (ways, pictures) with the highest mean of those without NaN."""
    return int(np.nanargmax(scores.mean(axis=1)))


def p_values(scores: NDArray[np.float64], best: int) -> list[float]:
    """Return for each row of `scores` (ways, pictures) how likely it is that it is as good as row `best`.

    Adjusted by Bonferroni for the number of rows that could have been the best: the best one is chosen on
    the pictures that it is tested on, and the nearest rival has to be protected from that like any other.
    """
    rivals = max(1, len(scores) - 1)
    return [min(1.0, rivals * p_value(scores[best] - other)) for other in scores]


def ahead(differences: NDArray[np.float64]) -> str:
    """Return by how much the log-probability is higher, with two standard errors; {} is for than what."""
    differences = differences[~np.isnan(differences)]
    spread = differences.std(ddof=1) / np.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return (
        f"log-probability of the true class higher by {differences.mean():.2f} ± {2 * spread:.2f} than with "
        f"{{}}, {len(differences)} pictures"
    )
