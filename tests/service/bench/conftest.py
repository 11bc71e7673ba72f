"""Fixtures: plans that take a second, with the tiny models, few runs and a short warm-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from service.bench.measure.plan import Plan, Repetitions, Request, make_plan
from service.inference.registry import Registry

SHORT = Repetitions(launches=2, rounds=2, block_runs=32, block_s=0.0, server_launches=1, trial_queries=700)


@pytest.fixture
def registry(tiny_models_dir: Path) -> Registry:
    """Return a registry of the tiny models, not loaded."""
    return Registry([tiny_models_dir], "tiny")


@pytest.fixture
def short_plan(registry: Registry) -> Callable[..., Plan]:
    """Make a short plan for a request with these fields; `rounds` makes it longer."""

    def make(*, rounds: int = SHORT.rounds, **fields: object) -> Plan:
        request = Request(seed=1, **fields)  # type: ignore[arg-type]
        repetitions = replace(SHORT, rounds=rounds)
        return replace(make_plan(registry, request, repetitions=repetitions), warm_up_s=0.0)

    return make
