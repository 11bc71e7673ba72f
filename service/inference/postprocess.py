"""Logits to the classes that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Activation


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class with its probability: among all classes, or on its own where the network ends in sigmoid."""

    class_id: int
    label: str
    probability: float


def top_predictions(
    logits: NDArray[np.float32], labels: Sequence[str], k: int, activation: Activation = "none"
) -> tuple[Prediction, ...]:
    """The `k` most probable classes of `logits`, float32 (classes,), the most probable first.

    Probabilities are the softmax over all classes, in float64; where the network has applied an `activation`
    itself, they are its values, cut to 0 to 1. Equal logits are ordered by class id.
    """
    border = np.partition(logits, -k)[-k]
    chosen = np.flatnonzero(
        logits >= border
    )  # all that tie at the border, so that the order decides, not chance
    top = chosen[np.argsort(-logits[chosen], kind="stable")][:k]
    if activation == "none":
        scores = np.exp(logits.astype(np.float64) - float(logits.max()))
        probabilities = scores[top] / scores.sum()
    else:
        probabilities = np.clip(logits[top].astype(np.float64), 0, 1)
    return tuple(
        Prediction(class_id, labels[class_id], probability)
        for class_id, probability in zip(top.tolist(), probabilities.tolist(), strict=True)
    )
