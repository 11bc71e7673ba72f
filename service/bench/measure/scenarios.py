"""Scenarios: warm a model up, and run it back to back, on all cores, or at a given rate."""

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
"""Number of runs at the start of a block that are not counted.

The model that ran before has evicted this model from the CPU caches.
"""

_WARM_UP_RUNS = 10
_WINDOW_S = 0.05
_GIVE_UP_AFTER_BUDGETS = 20.0
_CAPACITY_S = 0.5

Columns = dict[BenchStage, list[int]]


@dataclass(frozen=True)
class WarmedUp:
    """An object is the result of a warm-up.

    `runs` is the number of runs. `windows_ns` has the median of each window in nanoseconds. `stable` says
    whether the last three windows agree.
    """

    runs: int
    windows_ns: tuple[int, ...]
    stable: bool


def warm_up(subject: Subject, stage: BenchStage, least_s: float) -> WarmedUp:
    """Warm up a subject.

    First it runs at least 10 times and for at least `least_s` seconds. Then windows of runs follow. The
    warm-up ends when three windows in a row agree, or after ten windows. Each window has at least 10 runs,
    and takes at least 50 ms (or `least_s`, if that is shorter).
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
    """Run the scenario single-stream: each run starts when the previous one has ended.

    Return the nanoseconds of each run, by stage. `lead_in` runs at the start are not counted.
    """
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
    """Run the scenario `offline`: `threads` threads process images as fast as they can.

    Return the number of images, and the nanoseconds from the start to the end.
    """
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
    """A trial is the result of queries at one rate.

    `latencies_ns` are the times from the intended sending of each query to its end. `inference_ns` are the
    times of the network alone. `abandoned` is the number of queries that were not sent because the backlog
    was too long.
    """

    rate_per_s: float
    latencies_ns: tuple[int, ...]
    inference_ns: tuple[int, ...]
    abandoned: int

    def keeps(self, budget_ms: float) -> bool:
        """Return whether the trial is within the budget, as `keeps_budget` decides."""
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
    """Run the scenario `server` at one request rate.

    Queries arrive at random times (Poisson), and `threads` threads answer them in the order of arrival.
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
    """Search for the highest rate within the budget, and yield the trials.

    The first rates are 25, 50, 75 and 90 % of the capacity, until a rate is over the budget. Then the
    interval between the highest rate within the budget and the lowest rate over it is halved again and again,
    until these two rates are within 5 % of each other.
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
