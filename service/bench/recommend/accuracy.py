"""Accuracy of a model with its interval: inherited figures less the measured disagreement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.zoo.statistics import wilson
from service.bench.bundle import ModelFacts


@dataclass(frozen=True)
class AccuracyEstimate:
    """An accuracy with its 95 % interval, of which kind it is, and how it was found, in words."""

    value: float
    low: float
    high: float
    kind: Literal["measured", "reported", "inherited"]
    how: str


def estimate_accuracy(facts: ModelFacts) -> AccuracyEstimate | None:
    """Return the accuracy that counts; None where none is known.

    An inherited one is the parent's minus the measured disagreement: at worst every image on which the two
    differ is one that the parent got right. Its interval reaches up to the parent's.
    """
    accuracy = facts.accuracy
    if accuracy is None:
        return None
    if accuracy.interval is not None:
        low, high = accuracy.interval.low, accuracy.interval.high
    else:
        low, high = wilson(accuracy.value * accuracy.n, accuracy.n)
    if accuracy.kind != "inherited":
        how = f"{accuracy.kind} on {accuracy.dataset}, n = {accuracy.n}"
        return AccuracyEstimate(accuracy.value, low, high, accuracy.kind, how)
    agreement = facts.agreement
    if agreement is None:  # a card without it is refused, but a bundle may come from elsewhere
        return None
    lost = 1 - agreement.value
    return AccuracyEstimate(
        value=max(0.0, accuracy.value - lost),
        low=max(0.0, low - (1 - agreement.interval.low)),
        high=high,
        kind="inherited",
        how=f"inherited: {accuracy.value:.1%} of its parent '{agreement.parent}' minus {lost:.1%} measured "
        f"disagreement (n = {agreement.n})",
    )
