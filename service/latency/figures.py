"""Figures of latency by model and stage, merged from what was recorded in several buckets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from service.latency.histogram import Distribution, Summary, merge
from service.latency.recorded import ErrorSeries, Recorded, Told
from service.latency.stages import Stage

Series = tuple[str, Stage]
"""Model and stage; the regime is the same in all that is ever merged."""


@dataclass(frozen=True, slots=True)
class Merged:
    """Distributions by model and stage, and errors by model (empty: none was known) and kind."""

    distributions: Mapping[Series, Distribution] = field(default_factory=dict)
    errors: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is told of a stretch of time."""

    summaries: Mapping[Series, Summary]
    errors: Mapping[str, Mapping[str, int]]


def of_one_regime(recorded: Recorded) -> Merged:
    """What one instance recorded in one bucket, of one regime, in the shape of the rest."""
    return Merged(
        {(series.model, series.stage): part for series, part in recorded.distributions.items()},
        _by_model(recorded.errors),
    )


def as_figures(told: Told) -> Figures:
    """What the store tells of one bucket, of one regime, in the shape of the rest."""
    return Figures(
        {(series.model, series.stage): summary for series, summary in told.summaries.items()},
        _by_model(told.errors),
    )


def _by_model(counts: Mapping[ErrorSeries, int]) -> dict[str, dict[str, int]]:
    errors: dict[str, dict[str, int]] = {}
    for series, count in counts.items():
        errors.setdefault(series.model, {})[series.slug] = count
    return errors


def combine(parts: Iterable[Merged]) -> Merged:
    """All parts together."""
    distributions: defaultdict[Series, list[Distribution]] = defaultdict(list)
    errors: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for part in parts:
        for series, distribution in part.distributions.items():
            distributions[series].append(distribution)
        for model, counts in part.errors.items():
            for slug, count in counts.items():
                errors[model][slug] += count
    return Merged(
        {series: merge(each) for series, each in distributions.items()},
        {model: dict(counts) for model, counts in errors.items()},
    )


def figures(merged: Merged) -> Figures:
    """Mean, percentiles and maximum of each series."""
    return Figures(
        {series: distribution.summary() for series, distribution in merged.distributions.items()},
        merged.errors,
    )
