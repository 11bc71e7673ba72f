"""Results: every model of a zoo with its measured latency, the fronts, the inversions; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.cost.latency import Latency, Measurement
from models.zoo.card import Card, read_card

FIGURES = "zoo-latency.json"
"""The bundle of `weighin bench` that the page was made with, beside it."""


@dataclass(frozen=True)
class Row:
    """One model: its card and its measured latency."""

    card: Card
    latency: Latency

    @property
    def p50_ms(self) -> float:
        """The measured p50 in milliseconds."""
        return self.latency.p50_ms


def rows(zoo: Path, measured: Measurement) -> list[Row]:
    """Every model of the zoo with its measurement, the fastest first.

    Raises ValueError, with their names, where a model was not measured or has changed since.
    """
    cards = [read_card(path.parent) for path in sorted(zoo.glob("*/card.json"))]
    stale = [c.name for c in cards if measured.models.get(c.name, {}).get("sha256") != c.file.sha256]
    if stale:
        raise ValueError(f"not measured as they are now: {', '.join(stale)}; run: python -m models report")
    found = [Row(card, measured.latency[card.name]) for card in cards]
    return sorted(found, key=lambda row: (row.card.labels, row.p50_ms, row.card.name))


def front(found: Sequence[Row], cost: str) -> list[str]:
    """Names of the models that none beats in accuracy at as little `p50_ms` or `macs`, cheapest first."""
    judged = [row for row in found if row.card.accuracy is not None]
    ordered = sorted(judged, key=lambda row: (_cost(row, cost), -accuracy(row)))
    best, names = -1.0, []
    for row in ordered:
        if accuracy(row) > best:
            best = accuracy(row)
            names.append(row.card.name)
    return names


def _cost(row: Row, cost: str) -> float:
    return row.p50_ms if cost == "p50_ms" else float(row.card.macs)


def accuracy(row: Row) -> float:
    """The accuracy that a card states, which must be there."""
    assert row.card.accuracy is not None
    return row.card.accuracy.value


def inversions(found: Sequence[Row]) -> list[tuple[str, str]]:
    """Pairs of fp32 models: the first has at least 5 % fewer MACs and yet takes at least 5 % longer."""
    floats = [row for row in found if row.card.precision == "fp32"]
    return [
        (a.card.name, b.card.name)
        for a in floats
        for b in floats
        if a.card.macs < 0.95 * b.card.macs and a.p50_ms > 1.05 * b.p50_ms
    ]
