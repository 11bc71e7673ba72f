"""Marks of the models' chart: an axis of milliseconds that all rows share, and positions along it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.latency.histogram import Summary
from service.latency.stages import Stage

LOG_FROM = 12
"""Ratio of the largest to the smallest latency from which the axis is logarithmic."""

_MOST_TICKS = 6
_DIGITS = (1, 2, 3, 5)
"""First digits of the ends of a logarithmic axis."""
_ROOM = 0.2
"""Minimum distance of an inner tick from the ends of a logarithmic axis, as a share of its length.

Labels then have room.
"""


@dataclass(frozen=True, slots=True)
class Tick:
    """A value with its position in percent of the chart's width."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of milliseconds from `low` to `high`, which are round values. A linear axis begins at 0."""

    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, values: Iterable[float], *, stacked: bool = False) -> Axis:
        """Return the axis for `values` in ms.

        It is logarithmic if the values differ by a factor of LOG_FROM or more, unless bars are `stacked`.
        Both ends of the axis are ticks, so that the ticks cover all values.
        """
        known = [value for value in values if value > 0]
        if not known:
            return cls(0.0, 1.0, log=False)
        low, high = min(known), max(known)
        if stacked or high < LOG_FROM * low:
            step = _step(high)
            return cls(0.0, _round(math.ceil(_round(high / step)) * step), log=False)
        powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 2)
        ends = [_round(digit * 10.0**power) for power in powers for digit in _DIGITS]
        return cls(max(end for end in ends if end <= low), min(end for end in ends if end >= high), log=True)

    def x(self, ms: float) -> float:
        """Return the position of a latency in percent, rounded to a thousandth."""
        if self.log:
            share = math.log(max(ms, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = ms / self.high
        return round(100 * share, 3)

    def ticks(self) -> list[Tick]:
        """Return at most six ticks at round values along the axis. The ends of the axis are among them."""
        values = self._log_values() if self.log else self._linear_values()
        return [Tick(self.x(value), f"{value:g}") for value in values]

    def _linear_values(self) -> list[float]:
        step = _step(self.high)
        return [_round(number * step) for number in range(round(self.high / step) + 1)]

    def _log_values(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        room = (self.high / self.low) ** _ROOM
        inner: list[float] = []
        for digits in ((1, 2, 5), (1, 3), (1,)):
            values = [_round(digit * 10.0**power) for power in powers for digit in digits]
            inner = [value for value in values if self.low * room <= value <= self.high / room]
            if len(inner) <= _MOST_TICKS - 2:
                break
        return [self.low, *inner[:: math.ceil(len(inner) / (_MOST_TICKS - 2)) or 1], self.high]


def _step(high: float) -> float:
    """Return the smallest step with which at most five steps reach `high`.

    A step is 1, 2, 2.5 or 5 times a power of ten.
    """
    power = 10.0 ** (math.floor(math.log10(high)) - 1)
    steps = (_round(digit * power * scale) for scale in (1, 10) for digit in (1, 2, 2.5, 5))
    return next(step for step in steps if _round(high / step) <= _MOST_TICKS - 1)


def _round(value: float) -> float:
    """Return a value without the error of floating-point arithmetic, to nine significant digits."""
    return float(f"{value:.9g}")


@dataclass(frozen=True, slots=True)
class Marks:
    """Positions of a model's median, and of the ends of its bars to p90 and p99, in percent of the axis.

    The position of a percentile is None if the percentile is withheld.
    """

    p50: float
    p90: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Part:
    """A stage's mean as a part of a stacked bar.

    `x` and `width`: where it begins and how wide it is, in percent. `tip`: the text of its tooltip.
    """

    stage: Stage
    x: float
    width: float
    tip: str


def marks(axis: Axis, summary: Summary) -> Marks | None:
    """Return the marks of a model, or None if the model has no runs."""
    if summary.p50_ms is None:
        return None
    p90, p99 = (None if ms is None else axis.x(ms) for ms in (summary.p90_ms, summary.p99_ms))
    return Marks(axis.x(summary.p50_ms), p90, p99)


def stacked(
    axis: Axis,
    means: Mapping[Stage, float],
    stages: Sequence[Stage],
    notes: Mapping[Stage, str] | None = None,
) -> tuple[Part, ...]:
    """Return the parts of a stacked bar, one for each stage, from the stages' means in ms.

    `notes`: further words for the tooltip of a stage.
    """
    parts, begin = [], 0.0
    for stage in stages:
        if stage in means:
            end = begin + means[stage]
            x = axis.x(begin)
            tip = " ".join(filter(None, (f"{stage}: mean {means[stage]:.3g} ms", (notes or {}).get(stage))))
            parts.append(Part(stage, x, round(axis.x(end) - x, 3), tip))
            begin = end
    return tuple(parts)
