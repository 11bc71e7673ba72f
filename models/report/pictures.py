"""Pictures: accuracy over latency or MACs, of a zoo and of a search, with the front that nothing beats."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib.figure import Figure

from models.compress.search import Candidate
from models.report.results import Row, front
from models.zoo.files import write_whole

AXES = {"p50_ms": "p50 latency, ms (measured, one thread)", "macs": "multiply-accumulates, M"}


def draw(found: Sequence[Row], cost: str, path: Path) -> None:
    """Write an SVG of the models that state an accuracy. Raises ValueError where none does."""
    judged = [row for row in found if row.card.accuracy is not None]
    if not judged:
        raise ValueError("no model states an accuracy to draw")

    def place(row: Row) -> tuple[float, float]:
        assert row.card.accuracy is not None
        return (row.p50_ms if cost == "p50_ms" else row.card.macs / 1e6), 100 * row.card.accuracy.value

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for row in judged:
        x, y = place(row)
        marker = "s" if row.card.precision == "int8" else "o"
        axes.plot(x, y, marker, color="tab:orange" if marker == "s" else "tab:blue")
        label = row.card.name.removeprefix("fashion-")
        axes.annotate(label, (x, y), textcoords="offset points", xytext=(5, 3), fontsize=7)
    best = {row.card.name: place(row) for row in judged}
    line = [best[name] for name in front(judged, cost)]
    axes.step([x for x, _ in line], [y for _, y in line], where="post", color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel(AXES[cost])
    axes.set_ylabel("top-1 accuracy, %")
    _write(figure, path)


def draw_front(candidates: Sequence[Candidate], path: Path) -> None:
    """Write an SVG. Raises ValueError where there are no candidates."""
    if not candidates:
        raise ValueError("there are no candidates to draw")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for block in dict.fromkeys(candidate.design.block() for candidate in candidates):
        own = [candidate for candidate in candidates if candidate.design.block() == block]
        axes.scatter(
            [1000 * candidate.p50_ms for candidate in own],
            [100 * candidate.accuracy for candidate in own],
            s=22,
            label=block,
        )
    best = sorted((c for c in candidates if c.best), key=lambda c: c.p50_ms)
    axes.plot([1000 * c.p50_ms for c in best], [100 * c.accuracy for c in best], color="black", linewidth=1)
    axes.set_xlabel("p50 latency, µs (measured)")
    axes.set_ylabel("validation accuracy after the short training, %")
    axes.legend(fontsize=7, ncols=2)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    """Write an SVG of the same bytes for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "weighin"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_whole(path, buffer.getvalue())
