"""Data of the dashboard's charts, as columns for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from service.latency.histogram import Distribution, Summary
from service.latency.query import Window
from service.latency.series import Figures
from service.latency.shape import curve, histogram
from service.latency.stages import Stage
from service.web.table import PARTS, mean_parts

Column = list[float | None]
History = tuple[Window, Sequence[tuple[int, Figures]]]

MOST_SERIES = 5
"""Number of models that have a series of their own in the chart of requests, if others share a series."""

PERCENTILES: dict[str, Callable[[Summary], float | None]] = {
    "p50": lambda summary: summary.p50_ms,
    "p90": lambda summary: summary.p90_ms,
    "p95": lambda summary: summary.p95_ms,
    "p99": lambda summary: summary.p99_ms,
}


@dataclass(frozen=True, slots=True)
class OverTime:
    """Percentiles over time of one model and stage.

    `at` is the start of each step as Unix time in seconds. The columns have one value per step, in
    milliseconds, or None if the step has too few runs.
    """

    at: list[int]
    step_s: int
    percentiles: dict[str, Column]


@dataclass(frozen=True, slots=True)
class Parts:
    """Durations of one model's stages over time, in milliseconds.

    `means`: the mean duration of each stage, because means add up and percentiles do not. `queue`:
    percentiles of the time in the queue.
    """

    at: list[int]
    step_s: int
    means: dict[str, Column]
    queue: dict[str, Column]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Traffic over time of one or all models: successful requests per second, and error counts by kind."""

    at: list[int]
    step_s: int
    per_second: dict[str, Column]
    errors: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Shape:
    """The percentile curve and the histogram of a distribution.

    `curve`: points (fraction, ms). `bins`: bins (from ms, to ms, count).
    """

    count: int
    curve: list[tuple[float, float]]
    bins: list[tuple[float, float, int]]


def over_time(history: History, model: str, stage: Stage) -> OverTime:
    """Build the columns of one model and stage."""
    at, steps = _steps(history)
    return OverTime(
        at=at,
        step_s=history[0].resolution_s,
        percentiles={name: _column(steps, model, stage, value) for name, value in PERCENTILES.items()},
    )


def parts(history: History, model: str) -> Parts:
    """Build the stage columns of one model. Stages without runs are left out."""
    at, steps = _steps(history)
    by_step = [{} if step is None else mean_parts(step, model) for step in steps]
    means: dict[Stage, Column] = {
        stage: [_thousandths(means.get(stage)) for means in by_step] for stage in PARTS
    }
    return Parts(
        at=at,
        step_s=history[0].resolution_s,
        means={stage: column for stage, column in means.items() if any(mean is not None for mean in column)},
        queue={name: _column(steps, model, "queue", PERCENTILES[name]) for name in ("p50", "p95")},
    )


def traffic(history: History, model: str, stage: Stage) -> Traffic:
    """Build the columns of requests per second and of errors over time.

    A request is counted by its run of `stage`. If `model` is empty, all models are counted. If these are more
    than MOST_SERIES + 1 models, the MOST_SERIES models with the most runs have a column each, and the other
    models share one.
    """
    window, _ = history
    at, steps = _steps(history)
    names = sorted({name for step in steps if step is not None for name, _ in step.summaries})
    # The last step is incomplete.
    lengths = [max(1.0, min(window.resolution_s, window.end - start)) for start in at]
    shown = [name for name in names if not model or name == model]
    counts = {name: [0 if step is None else _count(step, name, stage) for step in steps] for name in shown}
    if len(counts) > MOST_SERIES + 1:
        ranked = sorted(counts, key=lambda name: (-sum(counts[name]), name))
        rest = [sum(column) for column in zip(*(counts[name] for name in ranked[MOST_SERIES:]), strict=True)]
        counts = {name: counts[name] for name in ranked[:MOST_SERIES]}
        counts[f"{len(ranked) - MOST_SERIES} others"] = rest
    failures = [{} if step is None else _errors(step, model) for step in steps]
    kinds = sorted({slug for counts_by_slug in failures for slug in counts_by_slug})
    return Traffic(
        at=at,
        step_s=window.resolution_s,
        per_second={
            name: [round(count / length, 4) for count, length in zip(column, lengths, strict=True)]
            for name, column in counts.items()
        },
        errors={slug: [counts_by_slug.get(slug, 0) for counts_by_slug in failures] for slug in kinds},
    )


def _thousandths(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 3)


def shape(distribution: Distribution) -> Shape:
    """Build percentile curve and histogram from a distribution."""
    return Shape(
        count=distribution.count,
        curve=curve(distribution),
        bins=[(part.from_ms, part.to_ms, part.count) for part in histogram(distribution)],
    )


def as_json(*charts: tuple[str, OverTime | Parts | Traffic | Shape]) -> Mapping[str, object]:
    """Convert the charts' dataclasses to dicts, by name."""
    return {name: asdict(chart) for name, chart in charts}


def _steps(history: History) -> tuple[list[int], list[Figures | None]]:
    """Return the start of every step from the first recorded step on, and the figures of every step.

    The figures of a step in which nothing was recorded are None.
    """
    window, points = history
    by_start = dict(points)
    first = points[0][0] if points else window.start
    at = list(range(first, math.floor(window.end) + 1, window.resolution_s))
    return at, [by_start.get(start) for start in at]


def _column(
    steps: Sequence[Figures | None], model: str, stage: Stage, value: Callable[[Summary], float | None]
) -> Column:
    summaries = (None if step is None else step.summaries.get((model, stage)) for step in steps)
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
