"""Plot accuracy over latency or MACs, with the Pareto front, for a zoo or a search."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from models.compress.search import Candidate
from models.report.results import Row, accuracy, front, short_name
from models.report.techniques import kind
from models.zoo.files import write_whole

AXES = {"p50_ms": "p50 latency in ms (one thread, bars: rounds)", "macs": "multiply–accumulates in millions"}
COLOURS = {
    "Plain convolution": "#808080",
    "Block": "#2f81f7",
    "Pruned": "#d9822b",
    "Quantized": "#a371f7",
    "Distilled": "#2da44e",
    "Combined": "#c9730a",
    "Searched": "#e5484d",
}
MARKERS = dict(zip(COLOURS, "os^DPvX", strict=True))
INK = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
STYLE: dict[Any, str] = {"svg.hashsalt": "weighin", **dict.fromkeys(INK, "#808080")}
"""Style of the plots. Mid-grey on a transparent background is legible in a light and in a dark theme."""
LABEL_ITERATIONS = 2000
"""Maximum number of iterations by which labels are placed.

It replaces a limit of time, which would place the labels differently on each machine.
"""


def draw(models: Sequence[Row], cost: str, path: Path) -> None:
    """Write an SVG that plots accuracy over `cost` (`p50_ms` or `macs`), with intervals.

    Models that state no accuracy are left out.

    Raises ValueError if no model states an accuracy.
    """
    drawn = [row for row in models if row.card.accuracy is not None]
    if not drawn:
        raise ValueError(f"{path.name}: none of {len(models)} models states an accuracy to draw")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 7), dpi=72, layout="constrained")
        axes = figure.subplots()
        best = front(drawn, cost)
        axes.step(
            [_cost(row, cost) for row in best],
            [100 * accuracy(row) for row in best],
            where="post",
            color="#808080",
            linewidth=0.8,
            linestyle="--",
            label="Pareto front",
        )
        for name, colour in COLOURS.items():
            for number, row in enumerate(row for row in drawn if kind(row.card) == name):
                axes.errorbar(
                    _cost(row, cost),
                    100 * accuracy(row),
                    xerr=_latency_bars(row) if cost == "p50_ms" else None,
                    yerr=_accuracy_bars(row),
                    fmt=MARKERS[name],
                    color=colour,
                    elinewidth=0.7,
                    markersize=5,
                    ecolor=(colour, 0.45),
                    label=None if number else name,
                )
        axes.set_xscale("log")
        axes.margins(0.15, 0.08)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(AXES[cost])
        axes.set_ylabel("top-1 accuracy in % (bars: 95 % interval)")
        figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
        figure.draw_without_rendering()
        _label(axes, [(_cost(row, cost), 100 * accuracy(row), row) for row in drawn])
        _write(figure, path)


def draw_front(candidates: Sequence[Candidate], path: Path) -> None:
    """Write an SVG that plots a search's candidates. Raises ValueError if `candidates` is empty."""
    if not candidates:
        raise ValueError(f"{path.name}: no candidates to draw")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for block in dict.fromkeys(candidate.design.block() for candidate in candidates):
            members = [candidate for candidate in candidates if candidate.design.block() == block]
            axes.scatter(
                [1000 * candidate.p50_ms for candidate in members],
                [100 * candidate.accuracy for candidate in members],
                s=22,
                label=block,
            )
        best = sorted((c for c in candidates if c.best), key=lambda c: c.p50_ms)
        axes.plot(
            [1000 * c.p50_ms for c in best], [100 * c.accuracy for c in best], color="#808080", linewidth=1
        )
        axes.set_xlabel("p50 latency, µs (measured)")
        axes.set_ylabel("validation accuracy after the short training, %")
        axes.legend(fontsize=7, ncols=2, framealpha=0)
        _write(figure, path)


def _cost(row: Row, cost: str) -> float:
    return row.p50_ms if cost == "p50_ms" else row.card.macs / 1e6


def _latency_bars(row: Row) -> list[list[float]]:
    return [[row.p50_ms - row.latency.low_ms], [row.latency.high_ms - row.p50_ms]]


def _accuracy_bars(row: Row) -> list[list[float]] | None:
    """Return how far the interval of a model's accuracy reaches below and above it, in percentage points.

    Return None if the card states no interval.
    """
    stated = row.card.accuracy
    if stated is None or stated.interval is None:
        return None
    return [[100 * (stated.value - stated.interval.low)], [100 * (stated.interval.high - stated.value)]]


def _label(axes: Axes, points: Sequence[tuple[float, float, Row]]) -> None:
    """Write each model's short name beside its point, inside the axes and without overlaps.

    adjustText never separates texts that start at the same position, so each text starts slightly higher than
    the one before.
    """
    texts = [
        axes.text(
            x, y + 0.01 * number, short_name(row.card), fontsize=7.5, color=COLOURS[kind(row.card)], zorder=9
        )
        for number, (x, y, row) in enumerate(points)
    ]
    positions = [(x, y) for x, y, _ in points]
    adjust_text(
        texts,
        *zip(*positions, strict=True),
        target_x=[x for x, _ in positions],
        target_y=[y for _, y in positions],
        ax=axes,
        expand=(1.3, 1.9),
        force_text=(0.6, 1.0),
        force_static=(0.5, 0.8),
        iter_lim=LABEL_ITERATIONS,
    )
    to_data = axes.transData.inverted()
    for text, (x, y) in zip(texts, positions, strict=True):
        box = text.get_window_extent().transformed(to_data)
        end = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
        axes.plot([x, end[0]], [y, end[1]], color="#808080", linewidth=0.5, scalex=False, scaley=False)


def _write(figure: Figure, path: Path) -> None:
    """Write an SVG whose bytes depend only on the figure, and not on the date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    write_whole(path, buffer.getvalue())
