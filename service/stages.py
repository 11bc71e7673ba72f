"""The names that latency is recorded under: stages of a request and regimes of measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Stage = Literal["queue", "decode", "preprocess", "inference", "postprocess", "total"]
Regime = Literal["live", "compare", "isolated", "load"]

STAGES: tuple[Stage, ...] = get_args(Stage)
REGIMES: tuple[Regime, ...] = get_args(Regime)

Durations = Mapping[Stage, int]
"""Nanoseconds spent in each stage, from `time.perf_counter_ns`; stages that did not happen are absent."""
