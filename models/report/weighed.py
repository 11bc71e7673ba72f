"""What was weighed: every model of a zoo with its measured latency, and what none of them beats; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.zoo.card import Card, read_card

FIGURES = "zoo-latency.json"
"""The measurement that the page was made with, beside it."""


@dataclass(frozen=True)
class Figures:
    """A measurement: the machine in words, `p50_ms` by model, and the file hashes that were measured."""

    machine: str
    rounds: int
    runs: int
    p50_ms: Mapping[str, float]
    sha256: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Figures:
        """Raises FileNotFoundError, and ValueError for a file that is none."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except TypeError as error:
            raise ValueError(f"{path} is no measurement of a zoo: {error}") from None


@dataclass(frozen=True)
class Row:
    """One model: its card and its measured p50."""

    card: Card
    p50_ms: float


def rows(zoo: Path, figures: Figures) -> list[Row]:
    """Every model of the zoo with its measurement, the fastest first.

    Raises ValueError, with their names, where a model was not measured or has changed since.
    """
    cards = [read_card(path.parent) for path in sorted(zoo.glob("*/card.json"))]
    stale = [card.name for card in cards if figures.sha256.get(card.name) != card.file.sha256]
    if stale:
        raise ValueError(f"not measured as they are now: {', '.join(stale)}; run: python -m models report")
    found = [Row(card, figures.p50_ms[card.name]) for card in cards]
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


def as_json(figures: Figures) -> str:
    """The measurement as it is kept beside the page."""
    content: dict[str, Any] = {
        "machine": figures.machine,
        "rounds": figures.rounds,
        "runs": figures.runs,
        "p50_ms": dict(sorted(figures.p50_ms.items())),
        "sha256": dict(sorted(figures.sha256.items())),
    }
    return json.dumps(content, indent=1) + "\n"
