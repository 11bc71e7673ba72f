"""Plain types for what was recorded: by which process instance, in which stretch of time, of which series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from service.latency.histogram import Distribution, Summary
from service.latency.stages import Regime, Stage

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400

MERGED = ""
"""The `instance` of rows that a roll-up made of the rows of all instances."""


class Bucket(NamedTuple):
    """A stretch of time, aligned to its own length: `start` in seconds since 1970, UTC."""

    resolution_s: int
    start: int

    @property
    def end(self) -> int:
        """The first second that is not in it."""
        return self.start + self.resolution_s


def bucket_of(resolution_s: int, moment: float) -> Bucket:
    """The bucket of that length which holds the moment."""
    return Bucket(resolution_s, int(moment // resolution_s) * resolution_s)


class Scope(NamedTuple):
    """What a question is about; None: all of them."""

    regime: Regime
    model: str | None = None
    stage: Stage | None = None


class Series(NamedTuple):
    """What a distribution is of."""

    regime: Regime
    model: str
    stage: Stage


class ErrorSeries(NamedTuple):
    """What a number of errors is of; `model` is empty when the request failed before a model was known."""

    regime: Regime
    model: str
    slug: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one instance recorded in one bucket, or some of its series."""

    bucket: Bucket
    instance: str
    distributions: Mapping[Series, Distribution]
    errors: Mapping[ErrorSeries, int]

    def within(self, scope: Scope) -> Recorded:
        """The part that the question is about."""
        regime, model, stage = scope
        return Recorded(
            self.bucket,
            self.instance,
            {
                series: each
                for series, each in self.distributions.items()
                if series.regime == regime and model in (None, series.model) and stage in (None, series.stage)
            },
            {
                series: count
                for series, count in self.errors.items()
                if series.regime == regime and model in (None, series.model)
            },
        )

    def models(self) -> set[str]:
        """The models that anything was recorded of."""
        return {series.model for series in self.distributions} | {series.model for series in self.errors}


@dataclass(frozen=True, slots=True)
class Told:
    """What all instances together recorded in one bucket, as figures without their distributions."""

    summaries: dict[Series, Summary]
    errors: dict[ErrorSeries, int]
