"""Logits to the classes that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class with its probability among all classes of the label set."""

    class_id: int
    label: str
    probability: float


def top_predictions(logits: NDArray[np.float32], labels: Sequence[str], k: int) -> tuple[Prediction, ...]:
    """The `k` most probable classes of `logits`, float32 (classes,), the most probable first.

    Probabilities are the softmax over all classes, in float64; equal logits are ordered by class id.
    """
    border = np.partition(logits, -k)[-k]
    chosen = np.flatnonzero(
        logits >= border
    )  # all that tie at the border, so that the order decides, not chance
    top = chosen[np.argsort(-logits[chosen], kind="stable")][:k]
    scores = np.exp(logits.astype(np.float64) - float(logits.max()))
    probabilities = scores[top] / scores.sum()
    return tuple(
        Prediction(class_id, labels[class_id], probability)
        for class_id, probability in zip(top.tolist(), probabilities.tolist(), strict=True)
    )
