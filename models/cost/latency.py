"""How long ONNX models take on this CPU: one thread, one model at a time, in rounds of changing order."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.session import open_session

WARM_UP_RUNS = 10
WARM_UP_NS = 200_000_000
"""Before each block of measured runs: at least so many runs, and for at least so long."""


@dataclass(frozen=True)
class Latency:
    """`p50_ms`: the median of the rounds' medians; `low_ms`, `high_ms`: the least, the greatest."""

    p50_ms: float
    low_ms: float
    high_ms: float
    rounds: int
    runs: int


def order(names: Sequence[str], seed: int, number: int) -> list[str]:
    """The order of round `number`: a fresh shuffle, and the same one whenever it is asked for."""
    shuffled = list(names)
    np.random.default_rng([seed, number]).shuffle(shuffled)
    return shuffled


def measure(model: bytes | Path, image: NDArray[np.float32], runs: int) -> list[int]:
    """Nanoseconds of each of `runs` runs on `image`, in a session of its own, after a warm-up.

    All outputs but the first, the logits, are left uncomputed where that is possible, as when serving.
    """
    session = open_session(model)
    outputs = [session.get_outputs()[0].name]
    feed = {session.get_inputs()[0].name: image}
    started, warm = time.perf_counter_ns(), 0
    while warm < WARM_UP_RUNS or time.perf_counter_ns() - started < WARM_UP_NS:
        session.run(outputs, feed)
        warm += 1
    durations = []
    for _ in range(runs):
        before = time.perf_counter_ns()
        session.run(outputs, feed)
        durations.append(time.perf_counter_ns() - before)
    return durations


def interleaved(
    models: Mapping[str, tuple[bytes | Path, NDArray[np.float32]]], rounds: int, runs: int, seed: int = 0
) -> dict[str, Latency]:
    """The latency of each model on its image, all of them in every round, so that drift hits all alike.

    Raises ValueError unless there is at least one round and one run.
    """
    if rounds < 1 or runs < 1:
        raise ValueError(f"{rounds} rounds of {runs} runs measure nothing; at least 1 of each is needed")
    measured: dict[str, list[list[int]]] = {name: [] for name in models}
    for number in range(rounds):
        for name in order(list(models), seed, number):
            measured[name].append(measure(*models[name], runs))
    return {name: summarised(durations) for name, durations in measured.items()}


def summarised(rounds: Sequence[Sequence[int]]) -> Latency:
    """What the rounds of one model, in nanoseconds, come to. Raises ValueError where there are none."""
    if not rounds or not all(rounds):
        raise ValueError("there are no measured runs to summarise")
    medians = [statistics.median(durations) / 1e6 for durations in rounds]
    return Latency(
        p50_ms=round(statistics.median(medians), 4),
        low_ms=round(min(medians), 4),
        high_ms=round(max(medians), 4),
        rounds=len(rounds),
        runs=sum(len(durations) for durations in rounds),
    )
