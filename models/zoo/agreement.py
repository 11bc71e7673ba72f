"""How far two models with the same classes agree on the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Activation, Interval


@dataclass(frozen=True)
class Compared:
    """Agreement of two models on `n` images.

    `top_1_agreement` is the share of images for which both models have the same top-1 class, and `interval`
    is its 95 % Wilson interval. `divergence` is the mean Kullback-Leibler divergence of the second model's
    probabilities from the first model's, in nats. It depends on all probabilities, so it distinguishes
    variants whose top-1 classes hardly differ.
    """

    n: int
    top_1_agreement: float
    interval: Interval
    divergence: float


def compare_logits(first: NDArray[np.float32], second: NDArray[np.float32]) -> Compared:
    """Return the agreement of two models, from their logits (n, classes) for the same images.

    Raises ValueError if the shapes differ or there are no images.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) == 0:
        raise ValueError(f"logits: shapes {first.shape} and {second.shape} (allowed: one shape (n, classes))")
    same = int((first.argmax(1) == second.argmax(1)).sum())
    return Compared(
        n=len(first),
        top_1_agreement=same / len(first),
        interval=Interval.wilson(same, len(first)),
        divergence=float(divergences(first, second).mean()),
    )


def divergences(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence for each image, float64 (n,), in nats.

    `first` and `second` are the logits (n, classes) of two models. The divergence is that of the second
    model's probabilities from the first model's.
    """
    p, q = _log_softmax(first), _log_softmax(second)
    result: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(1)
    return result


def as_logits(scores: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Return logits (n, classes) for `compare_logits` from a network's output `scores`, (n, ...).

    `activation` is the function that the network has already applied to `scores`. A single probability p
    becomes two classes, with the probabilities 1 - p and p. If each class has a sigmoid of its own, the
    softmax of the result is each score divided by the sum of the scores of its image.
    """
    flat = scores.reshape(len(scores), -1).astype(np.float64)
    if activation != "none":
        if flat.shape[1] == 1:
            flat = np.concatenate((1 - flat, flat), axis=1)
        flat = np.log(np.clip(flat, 1e-12, None))
    return flat.astype(np.float32)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
