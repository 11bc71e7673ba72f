"""Estimate the accuracy of a model, with an interval.

From an inherited accuracy, the measured disagreement with the parent is subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.zoo.statistics import wilson
from service.bench.bundle import ModelFacts


@dataclass(frozen=True)
class AccuracyEstimate:
    """An accuracy, 0 to 1, with its 95 % interval.

    `kind` is the kind of the accuracy, and `how` says in words how it was determined. For the kind
    `evaluated`, there are two figures. Models are ranked by `ranked`, which is measured on one half of the
    user's pictures; `value` is measured on the other half. For other kinds, `ranked` is None.
    """

    value: float
    low: float
    high: float
    kind: Literal["measured", "reported", "inherited", "evaluated"]
    how: str
    ranked: float | None = None

    @property
    def compared(self) -> float:
        """Accuracy by which models are ranked: `ranked`, or `value` if `ranked` is None.

        The highest of several measured accuracies is probably too high, because chance helped to make it the
        highest. So `value`, which is shown as the model's accuracy, is measured on other pictures than
        `ranked`.
        """
        return self.value if self.ranked is None else self.ranked


def estimate_accuracy(facts: ModelFacts) -> AccuracyEstimate | None:
    """Return the accuracy by which models are compared, or None if it is unknown.

    For an inherited accuracy, this is the accuracy of the fp32 model minus the measured disagreement. This is
    the worst case, in which the fp32 model is right wherever the two models differ. The upper end of the
    interval is that of the fp32 model.
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
