"""Join the cards of a zoo with measured latencies; needs no torch.

Find the Pareto front, and the pairs of models of which the one with fewer MACs is slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.cost.latency import Latency, Measurement
from models.zoo.card import Card, read_card

FIGURES = "zoo-latency.json"
"""Name of the file beside the page with the bundle of `weighin bench` from which the page is made."""


@dataclass(frozen=True)
class Row:
    """One model: its card and its measured latency."""

    card: Card
    latency: Latency

    @property
    def p50_ms(self) -> float:
        """The measured p50 in milliseconds."""
        return self.latency.p50_ms


def short_name(card: Card) -> str:
    """Return a model's name without `fashion-` or `efficientnet-`, and with `ir` for `inverted-residual`."""
    name = card.name.removeprefix("fashion-").removeprefix("efficientnet-")
    return name.replace("inverted-residual", "ir")


def classifiers(zoo: Path) -> list[Card]:
    """Return the cards of a zoo's classifiers, sorted by name. Detectors are measured in another way."""
    cards = (read_card(path.parent) for path in sorted(zoo.glob("*/card.json")))
    return [card for card in cards if card.task == "image-classification"]


def rows(zoo: Path, measured: Measurement) -> list[Row]:
    """Return every classifier of the zoo with its measurement, sorted by label set and then by latency.

    Raises ValueError, with the names, if models were not measured or have changed since the measurement.
    """
    cards = classifiers(zoo)
    stale = [c.name for c in cards if measured.models.get(c.name, {}).get("sha256") != c.file.sha256]
    if stale:
        raise ValueError(f"{', '.join(stale)}: not measured, or changed since; run: python -m models report")
    unordered = [Row(card, measured.latency[card.name]) for card in cards]
    return sorted(unordered, key=lambda row: (row.card.labels, row.p50_ms, row.card.name))


def front(models: Sequence[Row], cost: str) -> list[Row]:
    """Return the models on the Pareto front of accuracy and `cost` (`p50_ms` or `macs`), cheapest first.

    Models that state no accuracy are left out.
    """
    candidates = [row for row in models if row.card.accuracy is not None]
    best: list[Row] = []
    for row in sorted(candidates, key=lambda row: (_cost(row, cost), -accuracy(row))):
        if not best or accuracy(row) > accuracy(best[-1]):
            best.append(row)
    return best


def _cost(row: Row, cost: str) -> float:
    return row.p50_ms if cost == "p50_ms" else float(row.card.macs)


def accuracy(row: Row) -> float:
    """Return the top-1 accuracy (0 to 1) on a row's card. The card must state an accuracy."""
    assert row.card.accuracy is not None
    return row.card.accuracy.value


def inversions(models: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return each pair of fp32 models of which the one with fewer MACs takes longer.

    The model with fewer MACs comes first. It has over 5 % fewer MACs than the other model, and its p50 is
    over 5 % longer.
    """
    floats = [row for row in models if row.card.precision == "fp32"]
    return [
        (a, b)
        for a in floats
        for b in floats
        if a.card.macs < 0.95 * b.card.macs and a.p50_ms > 1.05 * b.p50_ms
    ]
