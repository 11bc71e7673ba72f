"""A line chart over time, worked out on the server so that the page only has to draw it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

SIDE = 1000
"""Width and height of the drawing in its own units; the page stretches it to whatever room there is."""

_X_LABELS = 5
_Y_STEPS = 4
_DATES_FROM = timedelta(hours=48)


@dataclass(frozen=True, slots=True)
class Line:
    """One series: `name` in the legend, `pieces` as SVG point lists, broken where a value is missing."""

    name: str
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines in a square of SIDE units, y downward; labels and grid are evenly spaced.

    `y_labels` run from top to bottom and end with 0, `x_labels` from left to right.
    """

    lines: tuple[Line, ...]
    y_labels: tuple[str, ...]
    x_labels: tuple[str, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """The y of each horizontal grid line."""
        return _spread(len(self.y_labels))

    @property
    def columns(self) -> tuple[int, ...]:
        """The x of each vertical grid line."""
        return _spread(len(self.x_labels))


def line_chart(
    times: Sequence[datetime], series: Mapping[str, Sequence[float | None]], begin: datetime, end: datetime
) -> Chart | None:
    """Draw each of `series` (not negative, as long as `times`) from `begin` to `end`; None without a value.

    A value without neighbours becomes a piece of one point twice, which a round line cap turns into a dot.
    """
    values = [value for line in series.values() for value in line if value is not None]
    if not values or end <= begin:
        return None
    step = _round_step(max(values) / _Y_STEPS)
    steps = max(1, math.ceil(round(max(values) / step, 9)))
    top = step * steps
    span = end - begin
    across = [round(SIDE * min(1.0, max(0.0, (at - begin) / span))) for at in times]
    lines = tuple(Line(name, _pieces(across, line, top)) for name, line in series.items())
    y_labels = tuple(f"{step * index:.6g}" for index in range(steps, 0, -1))
    shape = "%H:%M" if span <= _DATES_FROM else "%b %d"
    ticks = (begin + span * index / (_X_LABELS - 1) for index in range(_X_LABELS))
    return Chart(lines, (*y_labels, "0"), tuple(tick.strftime(shape) for tick in ticks))


def _pieces(across: Sequence[int], line: Sequence[float | None], top: float) -> tuple[str, ...]:
    pieces: list[list[str]] = [[]]
    for x, value in zip(across, line, strict=True):
        if value is not None:
            pieces[-1].append(f"{x},{round(SIDE * (1 - value / top))}")
        elif pieces[-1]:
            pieces.append([])
    return tuple(" ".join(piece * 2 if len(piece) == 1 else piece) for piece in pieces if piece)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 or 10 times a power of ten that is at least `least`; 1 for 0."""
    if least <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if factor * power >= least * (1 - 1e-9))


def _spread(count: int) -> tuple[int, ...]:
    return tuple(round(SIDE * index / (count - 1)) for index in range(count))
