"""What the dashboard's charts draw, as columns of numbers that become JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from service.latency.histogram import Distribution, Summary
from service.latency.query import Window
from service.latency.series import Figures
from service.latency.shape import curve, histogram
from service.latency.stages import STAGES, Stage

Column = list[float | None]
History = tuple[Window, Sequence[tuple[int, Figures]]]

PARTS: tuple[Stage, ...] = tuple(stage for stage in STAGES if stage != "total")
"""The stages whose times add up to the total."""

PERCENTILES: dict[str, Callable[[Summary], float | None]] = {
    "p50": lambda summary: summary.p50_ms,
    "p90": lambda summary: summary.p90_ms,
    "p95": lambda summary: summary.p95_ms,
    "p99": lambda summary: summary.p99_ms,
}


@dataclass(frozen=True, slots=True)
class OverTime:
    """The percentiles of one model and stage, step by step. `at`: the first second of each step, since 1970;
    the columns are as long, in milliseconds, None where there were too few runs."""

    at: list[int]
    step_s: int
    percentiles: dict[str, Column]


@dataclass(frozen=True, slots=True)
class Parts:
    """The stages of one model, step by step: means, which add up as percentiles do not; and its queue."""

    at: list[int]
    step_s: int
    means: dict[str, Column]
    queue: dict[str, Column]


@dataclass(frozen=True, slots=True)
class Traffic:
    """All models, or one, step by step: answered requests per second by model, and errors by kind."""

    at: list[int]
    step_s: int
    per_second: dict[str, Column]
    errors: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Shape:
    """The percentile curve as (fraction, ms), and the bins of the histogram as (from ms, to ms, count)."""

    count: int
    curve: list[tuple[float, float]]
    bins: list[tuple[float, float, int]]


def over_time(history: History, model: str, stage: Stage) -> OverTime:
    """The percentiles of one model and stage."""
    at, found = _steps(history)
    return OverTime(
        at=at,
        step_s=history[0].resolution_s,
        percentiles={name: _column(found, model, stage, value) for name, value in PERCENTILES.items()},
    )


def parts(history: History, model: str) -> Parts:
    """The stages of one model."""
    at, found = _steps(history)
    means = {one: _column(found, model, one, lambda summary: summary.mean_ms) for one in PARTS}
    return Parts(
        at=at,
        step_s=history[0].resolution_s,
        means={one: values for one, values in means.items() if any(each is not None for each in values)},
        queue={name: _column(found, model, "queue", PERCENTILES[name]) for name in ("p50", "p95")},
    )


def traffic(history: History, model: str, stage: Stage) -> Traffic:
    """Requests, counted by a stage of theirs, and errors; of one model, or of all where that is empty."""
    window, _ = history
    at, found = _steps(history)
    names = sorted({name for one in found if one is not None for name, _ in one.summaries})
    # The last step has only begun.
    lengths = [max(1.0, min(window.resolution_s, window.end - start)) for start in at]
    wanted = [name for name in names if not model or name == model]
    counts = {name: [0 if one is None else _count(one, name, stage) for one in found] for name in wanted}
    failures = [{} if one is None else _errors(one, model) for one in found]
    kinds = sorted({slug for each in failures for slug in each})
    return Traffic(
        at=at,
        step_s=window.resolution_s,
        per_second={
            name: [round(count / length, 4) for count, length in zip(column, lengths, strict=True)]
            for name, column in counts.items()
        },
        errors={slug: [each.get(slug, 0) for each in failures] for slug in kinds},
    )


def medians(history: History, stage: Stage) -> dict[str, Column]:
    """The median of a stage step by step, by model."""
    _, found = _steps(history)
    names = {name for one in found if one is not None for name, _ in one.summaries}
    return {name: _column(found, name, stage, PERCENTILES["p50"]) for name in names}


def shape(distribution: Distribution) -> Shape:
    """How the runs are distributed."""
    return Shape(
        count=distribution.count,
        curve=curve(distribution),
        bins=[(each.from_ms, each.to_ms, each.count) for each in histogram(distribution)],
    )


def as_json(*drawn: tuple[str, OverTime | Parts | Traffic | Shape]) -> Mapping[str, object]:
    """The parts by name."""
    return {name: asdict(part) for name, part in drawn}


def _steps(history: History) -> tuple[list[int], list[Figures | None]]:
    """Every step from the first with anything in it, with its figures; None where nothing was recorded."""
    window, points = history
    found = dict(points)
    first = points[0][0] if points else window.start
    at = list(range(first, math.floor(window.end) + 1, window.resolution_s))
    return at, [found.get(start) for start in at]


def _column(
    found: Sequence[Figures | None], model: str, stage: Stage, value: Callable[[Summary], float | None]
) -> Column:
    summaries = (None if one is None else one.summaries.get((model, stage)) for one in found)
    return [None if summary is None else value(summary) for summary in summaries]


def _count(figures: Figures, model: str, stage: Stage) -> int:
    summary = figures.summaries.get((model, stage))
    return 0 if summary is None else summary.count


def _errors(figures: Figures, model: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, kinds in figures.errors.items():
        if not model or name == model:
            for slug, count in kinds.items():
                counts[slug] = counts.get(slug, 0) + count
    return counts
