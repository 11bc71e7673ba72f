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


@dataclass(frozen=True, slots=True)
class Tick:
    """A value with its position in percent of the chart's width."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """Milliseconds from `low` to `high`; linear axes begin at 0."""

    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, values: Iterable[float], *, stacked: bool = False) -> Axis:
        """Return the axis for `values` in ms: logarithmic if they differ much, unless bars are `stacked`."""
        known = [value for value in values if value > 0]
        if not known:
            return cls(0.0, 1.0, log=False)
        low, high = min(known), max(known)
        if stacked or high < LOG_FROM * low:
            return cls(0.0, high * 1.04, log=False)
        return cls(low / 1.15, high * 1.15, log=True)

    def x(self, ms: float) -> float:
        """Return the position of a latency in percent, rounded to a thousandth."""
        if self.log:
            share = math.log(max(ms, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = ms / self.high
        return round(100 * share, 3)

    def ticks(self) -> list[Tick]:
        """Return round values along the axis, at most six."""
        values = self._log_values() if self.log else self._linear_values()
        return [Tick(self.x(value), f"{value:g}") for value in values]

    def _linear_values(self) -> list[float]:
        rough = self.high / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(digit * power for digit in (5, 2, 1) if digit * power <= rough)
        values = [float(f"{number * step:.3g}") for number in range(math.floor(self.high / step) + 1)]
        return values[:: math.ceil(len(values) / _MOST_TICKS)]

    def _log_values(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            values = [float(f"{digit * 10.0**power:.3g}") for power in powers for digit in digits]
            values = [value for value in values if self.low <= value <= self.high]
            if len(values) <= _MOST_TICKS:
                break
        return values[:: math.ceil(len(values) / _MOST_TICKS)]


@dataclass(frozen=True, slots=True)
class Marks:
    """Positions in percent: the median, and the ends of the bars to p90 and p99; None where withheld."""

    p50: float
    p90: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Part:
    """A stage's mean in a stacked bar: begin and width in percent."""

    stage: Stage
    x: float
    width: float
    tip: str


def marks(axis: Axis, summary: Summary) -> Marks | None:
    """Return the marks of a model; None without runs."""
    if summary.p50_ms is None:
        return None
    p90, p99 = (None if ms is None else axis.x(ms) for ms in (summary.p90_ms, summary.p99_ms))
    return Marks(axis.x(summary.p50_ms), p90, p99)


def stacked(axis: Axis, means: Mapping[Stage, float], stages: Sequence[Stage]) -> tuple[Part, ...]:
    """Return the bars of the stages' means in ms, one after the other."""
    parts, begin = [], 0.0
    for stage in stages:
        if stage in means:
            end = begin + means[stage]
            x = axis.x(begin)
            parts.append(Part(stage, x, round(axis.x(end) - x, 3), f"{stage}: mean {means[stage]:.3g} ms"))
            begin = end
    return tuple(parts)
