"""What is stored and queried: latencies and errors of one process in one bucket, and pooled ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from service.latency.buckets import Bucket
from service.latency.histogram import Distribution, Summary, merge
from service.latency.stages import Regime, Stage


class Versions(NamedTuple):
    """Versions of models that a question is about.

    If `prefix` is not empty, these are all versions that begin with it. If `prefix` is empty, they depend on
    the model. For a model in `models`, they are the versions in `current`, and the empty version: runs of
    unknown version have the empty version. For any other model, they are all versions.
    """

    prefix: str = ""
    models: tuple[str, ...] = ()
    current: tuple[str, ...] = ()

    def admit(self, model: str, version: str) -> bool:
        """Return whether this version of the model is included."""
        if self.prefix:
            return version.startswith(self.prefix)
        return not version or version in self.current or model not in self.models


class Run(NamedTuple):
    """Model, version, runtime and machine of recorded runs.

    Version, runtime and machine are empty if they are unknown.
    """

    model: str
    version: str
    runtime: str
    machine: str


class Scope(NamedTuple):
    """What a query selects. A field that is None selects everything.

    `totals_only`: histograms are not read, so there are no percentiles. Reading histograms takes most of the
    time of a query. `machine`: name of a kind of machine. If it is empty, runs whose machine is unknown are
    selected.
    """

    regime: Regime
    model: str | None = None
    stage: Stage | None = None
    versions: Versions | None = None
    runtime: str | None = None
    totals_only: bool = False
    machine: str | None = None

    def admits_run(self, run: Run) -> bool:
        """Return whether these runs are selected."""
        return self.machine in (None, run.machine) and self.admits(run.model, run.version, run.runtime)

    def admits(self, model: str, version: str, runtime: str) -> bool:
        """Return whether runs of this model, version and runtime are selected, whatever their machine."""
        return (
            self.model in (None, model)
            and self.runtime in (None, runtime)
            and (self.versions is None or self.versions.admit(model, version))
        )

    def admits_error(self, model: str, version: str, runtime: str) -> bool:
        """Return whether errors of this model, version and runtime are selected, whatever their machine.

        Errors without a runtime fit every runtime.
        """
        return self.admits(model, version, runtime or self.runtime or "")


class Series(NamedTuple):
    """What identifies a distribution: the regime, model, version, runtime and stage of its durations.

    `version` is the SHA-256 of the model's file. Version and runtime are empty if they are unknown.
    """

    regime: Regime
    model: str
    version: str
    runtime: str
    stage: Stage


class ErrorSeries(NamedTuple):
    """What identifies an error count: regime, model, version and runtime, and the kind of error, `slug`.

    `model` is empty if the request failed before a model was known.
    """

    regime: Regime
    model: str
    version: str
    runtime: str
    slug: str


@dataclass(frozen=True, slots=True)
class Pooled:
    """The selected distributions by model and stage, and error counts by model and slug (kind of error).

    The model of an error is empty if the request failed before a model was known.
    """

    distributions: Mapping[tuple[str, Stage], Distribution] = field(default_factory=dict)
    errors: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def figures(self) -> Figures:
        """Return the summary of each distribution, and the error counts."""
        return Figures({key: part.summary() for key, part in self.distributions.items()}, self.errors)


@dataclass(frozen=True, slots=True)
class Figures:
    """Summaries by model and stage, and error counts by model and slug (kind of error), of a time range."""

    summaries: Mapping[tuple[str, Stage], Summary]
    errors: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Part:
    """Distributions and error counts of one process in one bucket, either all or only changed ones.

    `instance`: id of the process.
    """

    bucket: Bucket
    instance: str
    distributions: Mapping[Series, Distribution]
    errors: Mapping[ErrorSeries, int]

    def pooled(self, scope: Scope) -> Pooled:
        """Return the data that `scope` selects, pooled. The machine of the scope is ignored."""
        return pool(
            (
                (
                    series.model,
                    series.stage,
                    distribution.without_slots() if scope.totals_only else distribution,
                )
                for series, distribution in self.distributions.items()
                if series.regime == scope.regime
                and scope.admits(series.model, series.version, series.runtime)
                and scope.stage in (None, series.stage)
            ),
            (
                (series.model, series.slug, count)
                for series, count in self.errors.items()
                if series.regime == scope.regime
                and scope.admits_error(series.model, series.version, series.runtime)
            ),
        )

    def models(self) -> set[str]:
        """Return the names of all models with data."""
        return {series.model for series in self.distributions} | {series.model for series in self.errors}


@lru_cache(4096)
def series_key(model: str, stage: Stage) -> tuple[str, Stage]:
    """Return one and the same object for equal arguments, so that thousands of cached keys take no memory."""
    return model, stage


def pool(
    distributions: Iterable[tuple[str, Stage, Distribution]], errors: Iterable[tuple[str, str, int]]
) -> Pooled:
    """Merge distributions of the same model and stage, and sum error counts of the same model and slug."""
    parts: defaultdict[tuple[str, Stage], list[Distribution]] = defaultdict(list)
    for model, stage, distribution in distributions:
        parts[series_key(model, stage)].append(distribution)
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for model, slug, count in errors:
        counts[model][slug] = counts[model].get(slug, 0) + count
    return Pooled({key: merge(same) for key, same in parts.items()}, dict(counts))


def combine(parts: Iterable[Pooled]) -> Pooled:
    """Merge the distributions and add the error counts of all parts."""
    parts = list(parts)
    return pool(
        ((*key, distribution) for part in parts for key, distribution in part.distributions.items()),
        (
            (model, slug, count)
            for part in parts
            for model, counts in part.errors.items()
            for slug, count in counts.items()
        ),
    )
