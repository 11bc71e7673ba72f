"""Stages of a request, regimes of latency, and a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal, get_args

Stage = Literal["queue", "decode", "preprocess", "inference", "postprocess", "nms", "search", "total"]
Regime = Literal["live", "compare", "isolated", "load", "demo"]

STAGES: tuple[Stage, ...] = get_args(Stage)
REGIMES: tuple[Regime, ...] = get_args(Regime)

Durations = Mapping[Stage, int]
"""Nanoseconds by stage, measured with `time.perf_counter_ns`. Stages that did not run are absent."""


class Stopwatch:
    """Measures consecutive stages: `lap` ends one and starts the next."""

    def __init__(self) -> None:
        self.durations: dict[Stage, int] = {}
        self._start = self._last = time.perf_counter_ns()

    def lap(self, stage: Stage) -> None:
        """Record the time since the last lap as `stage`."""
        now = time.perf_counter_ns()
        self.durations[stage] = now - self._last
        self._last = now

    def stop(self) -> Durations:
        """Return the durations of the stages so far. `total` is the time from the start to the last lap."""
        self.durations["total"] = self._last - self._start
        return self.durations


def milliseconds(nanoseconds: int) -> float:
    """Convert nanoseconds to milliseconds, rounded to microseconds."""
    return round(nanoseconds / 1e6, 3)
