"""The picture of a search: every candidate's accuracy over its latency, and the front that nothing beats."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib.figure import Figure

from models.compress.search import Candidate
from models.zoo.files import write_whole


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
    front = sorted((c for c in candidates if c.best), key=lambda c: c.p50_ms)
    axes.plot([1000 * c.p50_ms for c in front], [100 * c.accuracy for c in front], color="black", linewidth=1)
    axes.set_xlabel("p50 latency, µs (measured)")
    axes.set_ylabel("validation accuracy after the short training, %")
    axes.legend(fontsize=7, ncols=2)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "weighin"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_whole(path, buffer.getvalue())
