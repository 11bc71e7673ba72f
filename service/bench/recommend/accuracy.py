"""Accuracy of a model with its interval; the measured disagreement is subtracted from an inherited one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.zoo.statistics import wilson
from service.bench.bundle import ModelFacts


@dataclass(frozen=True)
class AccuracyEstimate:
    """An accuracy, 0 to 1, with its 95 % interval, its kind, and `how` it was determined, in words.

    `ranked`: the accuracy by which models are ranked. It is measured on the half of the user's pictures that
    `value` is not measured on; None unless the kind is `evaluated`.
    """

    value: float
    low: float
    high: float
    kind: Literal["measured", "reported", "inherited", "evaluated"]
    how: str
    ranked: float | None = None

    @property
    def compared(self) -> float:
        """Accuracy to rank by: `ranked` if there is one, because the best of several values is too high."""
        return self.value if self.ranked is None else self.ranked


def estimate_accuracy(facts: ModelFacts) -> AccuracyEstimate | None:
    """Return the accuracy to compare models by; None if it is unknown.

    An inherited accuracy is that of the fp32 model minus the measured disagreement: the worst case, in which
    the fp32 model is right wherever the two differ. The upper end of the interval is that of the fp32 model.
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
    if agreement is None:  # cards need it in this case, but a bundle may be of another version
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
