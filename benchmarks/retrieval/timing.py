"""How long searches take, one after the other on one thread, and how much memory an index takes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROUNDS = 3

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""Rows of the gallery, best first, for one query (D,)."""


def timed_searches(
    search: Search, queries: NDArray[np.float32]
) -> tuple[list[NDArray[np.int64]], dict[str, list[float]]]:
    """What is found for each query, and percentiles of each of ROUNDS rounds, in milliseconds.

    `p50_ms` and `p99_ms` by the clock; `cpu_p50_ms` and `cpu_p99_ms` of what the thread had of a core, which
    others on the machine cannot lengthen by taking that core away. A tenth is searched for first, unmeasured.
    """
    for query in queries[::10]:
        search(query)
    found: list[NDArray[np.int64]] = []
    figures: dict[str, list[float]] = {"p50_ms": [], "p99_ms": [], "cpu_p50_ms": [], "cpu_p99_ms": []}
    for _ in range(ROUNDS):
        found, wall, cpu = [], [], []
        for query in queries:
            begun, begun_cpu = time.perf_counter_ns(), time.thread_time_ns()
            rows = search(query)
            cpu.append((time.thread_time_ns() - begun_cpu) / 1e6)
            wall.append((time.perf_counter_ns() - begun) / 1e6)
            found.append(rows)
        for name, durations in (("", wall), ("cpu_", cpu)):
            for percentile in (50, 99):
                figures[f"{name}p{percentile}_ms"].append(float(np.percentile(durations, percentile)))
    return found, figures


def own_memory() -> int:
    """Bytes of this process's memory that no file backs."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
