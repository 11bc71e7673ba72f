"""The names that latency is recorded under: stages of a request and regimes of measurement."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal, get_args

Stage = Literal["queue", "decode", "preprocess", "inference", "postprocess", "search", "total"]
Regime = Literal["live", "compare", "isolated", "load"]

STAGES: tuple[Stage, ...] = get_args(Stage)
REGIMES: tuple[Regime, ...] = get_args(Regime)

Durations = Mapping[Stage, int]
"""Nanoseconds spent in each stage, from `time.perf_counter_ns`; stages that did not happen are absent."""


class Stopwatch:
    """Splits a stretch of time into stages, back to back: `lap` ends one and begins the next."""

    def __init__(self) -> None:
        self.durations: dict[Stage, int] = {}
        self._start = self._last = time.perf_counter_ns()

    def lap(self, stage: Stage) -> None:
        """What has passed since the last lap belongs to `stage`."""
        now = time.perf_counter_ns()
        self.durations[stage] = now - self._last
        self._last = now

    def stop(self) -> Durations:
        """The stages so far, and `total`: from the start to the last lap."""
        self.durations["total"] = self._last - self._start
        return self.durations


def milliseconds(nanoseconds: int) -> float:
    """Milliseconds with microsecond resolution."""
    return round(nanoseconds / 1e6, 3)
