"""Latency of sequential searches on one thread, and memory of this process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROUNDS = 3

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""Takes a query, float32 (D,), and returns rows of the gallery, best first."""


def timed_searches(
    search: Search, queries: NDArray[np.float32]
) -> tuple[list[NDArray[np.int64]], dict[str, list[float]]]:
    """Return the rows found for each query, and percentiles of the time in each of ROUNDS rounds, in ms.

    `p50_ms` and `p99_ms` are wall-clock time. `cpu_p50_ms` and `cpu_p99_ms` are CPU time of the thread, which
    other load on the machine does not lengthen. First, a tenth of the queries runs as a warm-up.
    """
    for query in queries[::10]:
        search(query)
    results: list[NDArray[np.int64]] = []
    figures: dict[str, list[float]] = {"p50_ms": [], "p99_ms": [], "cpu_p50_ms": [], "cpu_p99_ms": []}
    for _ in range(ROUNDS):
        results, wall, cpu = [], [], []
        for query in queries:
            started, started_cpu = time.perf_counter_ns(), time.thread_time_ns()
            rows = search(query)
            cpu.append((time.thread_time_ns() - started_cpu) / 1e6)
            wall.append((time.perf_counter_ns() - started) / 1e6)
            results.append(rows)
        for name, durations in (("", wall), ("cpu_", cpu)):
            for percentile in (50, 99):
                figures[f"{name}p{percentile}_ms"].append(float(np.percentile(durations, percentile)))
    return results, figures


def own_memory() -> int:
    """Return the anonymous resident memory of this process in bytes."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
