"""The pictures of `docs/zoo.md`: accuracy over latency and over MACs, with the models that none beats."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from models.report.weighed import Row, front
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
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "weighin"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_whole(path, buffer.getvalue())
