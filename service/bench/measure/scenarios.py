"""Scenarios: warm a subject up, and run it back to back, on all cores, or at a given rate."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from service.bench.bundle import BenchStage
from service.bench.judge.stability import MAX_WINDOWS, is_stable
from service.bench.judge.summary import keeps_budget
from service.bench.measure.subjects import Subject

LEAD_IN_RUNS = 2
"""Uncounted runs at the start of a block: the previous model has evicted this one from the CPU caches."""

_WARM_UP_RUNS = 10
_WINDOW_S = 0.05
_GIVE_UP_AFTER_BUDGETS = 20.0
_CAPACITY_S = 0.5

Columns = dict[BenchStage, list[int]]


@dataclass(frozen=True)
class WarmedUp:
    """Result of a warm-up: number of runs, medians of the windows in nanoseconds, and whether they agree."""

    runs: int
    windows_ns: tuple[int, ...]
    stable: bool


def warm_up(subject: Subject, stage: BenchStage, least_s: float) -> WarmedUp:
    """Warm up a subject: at least 10 runs and `least_s` seconds, then windows until three in a row agree.

    There are at most ten windows. Each has at least 10 runs, and takes at least 50 ms (or `least_s`, if
    that is shorter).
    """
    runs = 0
    start = time.monotonic()
    while runs < _WARM_UP_RUNS or time.monotonic() - start < least_s:
        subject.run(runs)
        runs += 1
    windows: list[int] = []
    while not is_stable(windows) and len(windows) < MAX_WINDOWS:
        block = one_after_another(subject, _WARM_UP_RUNS, min(_WINDOW_S, least_s), runs, lead_in=0)
        windows.append(int(statistics.median(block[stage])))
        runs += len(block[stage])
    return WarmedUp(runs, tuple(windows), is_stable(windows))


def one_after_another(
    subject: Subject, least_runs: int, least_s: float, first: int = 0, *, lead_in: int = LEAD_IN_RUNS
) -> Columns:
    """Single-stream: each run starts when the previous one has ended. Returns nanoseconds by stage."""
    for number in range(lead_in):
        subject.run(first + number)
    columns: Columns = {}
    start = time.monotonic()
    done = 0
    while done < least_runs or time.monotonic() - start < least_s:
        for stage, duration in subject.run(first + done).items():
            columns.setdefault(stage, []).append(duration)
        done += 1
    return columns


def all_at_once(
    subject: Subject, executor: ThreadPoolExecutor, threads: int, least_runs: int, least_s: float
) -> tuple[int, int]:
    """Offline: `threads` threads process images as fast as they can. Returns images and total nanoseconds."""
    lock = threading.Lock()
    taken = 0
    start = time.perf_counter_ns()

    def work() -> None:
        nonlocal taken
        while True:
            with lock:
                number = taken
                if number >= least_runs and time.perf_counter_ns() - start >= least_s * 1e9:
                    return
                taken += 1
            subject.run(number)

    for future in [executor.submit(work) for _ in range(threads)]:
        future.result()
    return taken, time.perf_counter_ns() - start


@dataclass(frozen=True)
class Trial:
    """Queries at one rate.

    `latencies_ns`: times from the intended sending to the end; `inference_ns`: times of the network alone;
    `abandoned`: number of queries that were not sent because the backlog was too long.
    """

    rate_per_s: float
    latencies_ns: tuple[int, ...]
    inference_ns: tuple[int, ...]
    abandoned: int

    def keeps(self, budget_ms: float) -> bool:
        """Return whether every query was answered and the bound of the p99 is within the budget."""
        return keeps_budget(self.latencies_ns, self.abandoned, budget_ms)


def at_rate(
    subject: Subject,
    executor: ThreadPoolExecutor,
    threads: int,
    rate_per_s: float,
    queries: int,
    budget_ms: float,
    draw: random.Random,
) -> Trial:
    """Server: Poisson arrivals, served in FIFO order by `threads` threads.

    Latencies count from the intended send time, so that waiting for a busy thread is included.
    """
    arrivals: list[int] = []
    at = 0.0
    for _ in range(queries):
        at += draw.expovariate(rate_per_s)
        arrivals.append(int(at * 1e9))
    latencies, inference = [0] * queries, [0] * queries
    lock = threading.Lock()
    taken = 0
    gave_up = False
    start = time.perf_counter_ns() + 1_000_000

    def work() -> None:
        nonlocal taken, gave_up
        while True:
            with lock:
                number = taken
                if number >= queries or gave_up:
                    return
                taken += 1
            intended = start + arrivals[number]
            wait = intended - time.perf_counter_ns()
            if wait > 0:
                time.sleep(wait / 1e9)
            elif -wait > budget_ms * 1e6 * _GIVE_UP_AFTER_BUDGETS:
                gave_up = True
            times = subject.run(number)
            latencies[number] = time.perf_counter_ns() - intended
            inference[number] = times["inference"]

    for future in [executor.submit(work) for _ in range(threads)]:
        future.result()
    return Trial(rate_per_s, tuple(latencies[:taken]), tuple(inference[:taken]), queries - taken)


def search_rate(
    subject: Subject,
    executor: ThreadPoolExecutor,
    threads: int,
    queries: int,
    budget_ms: float,
    draw: random.Random,
) -> Iterator[Trial]:
    """Yield trials at 25, 50, 75 and 90 % of the capacity until a rate is over the budget, then bisect.

    The bisection is between the highest rate within the budget and the lowest rate over it, until these are
    within 5 % of each other.
    """
    images, elapsed_ns = all_at_once(subject, executor, threads, threads, _CAPACITY_S)
    capacity = images / (elapsed_ns / 1e9)

    def trial(rate: float) -> Trial:
        return at_rate(subject, executor, threads, rate, queries, budget_ms, draw)

    yield from _search(capacity, budget_ms, trial)


def _search(capacity: float, budget_ms: float, trial: Callable[[float], Trial]) -> Iterator[Trial]:
    kept, failed = 0.0, capacity
    for share in (0.25, 0.5, 0.75, 0.9):
        result = trial(share * capacity)
        yield result
        if not result.keeps(budget_ms):
            failed = share * capacity
            break
        kept = share * capacity
    lowest = 0.02 * capacity
    while failed > 1.05 * max(kept, lowest):
        middle = (kept + failed) / 2 if kept else max(failed / 2, lowest)
        result = trial(middle)
        yield result
        if result.keeps(budget_ms):
            kept = middle
        else:
            failed = middle
