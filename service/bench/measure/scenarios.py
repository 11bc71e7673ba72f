"""How a subject is run: once after the other, on all cores at once, or at a rate; and warmed up before."""

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
"""Runs at the start of a block that do not count: the models before it have emptied the caches."""

_WARM_UP_RUNS = 10
_WINDOW_S = 0.05
_GIVE_UP_AFTER_BUDGETS = 20.0
_CAPACITY_S = 0.5

Columns = dict[BenchStage, list[int]]


@dataclass(frozen=True)
class WarmedUp:
    """Runs that did not count, the medians of the windows at their end, and whether those agree."""

    runs: int
    windows_ns: tuple[int, ...]
    stable: bool


def warm_up(subject: Subject, stage: BenchStage, least_s: float) -> WarmedUp:
    """Run until at least 10 runs and `least_s` have passed and then three windows in a row agree, at most
    ten. A window has at least 10 runs and 50 ms (less where `least_s` is less)."""
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
    """Single-stream: the next run starts when the last has ended."""
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
    """Offline: `threads` threads take images as fast as they can. Returns images and nanoseconds in all."""
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
    """Queries at one rate: latencies from the intended send times, the network's own times, and how many
    queries were given up because the backlog had grown hopeless."""

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
    """Server: Poisson arrivals, first come first served by `threads` threads, whatever became of the last.

    A query's latency counts from when it was meant to be sent: one that waits for a busy thread has waited.
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
    """Trials at 25, 50, 75 and 90 % of the capacity, then between the best that kept the budget and the
    first above it that did not, until those are 5 % apart."""
    images, elapsed_ns = all_at_once(subject, executor, threads, threads, _CAPACITY_S)
    capacity = images / (elapsed_ns / 1e9)

    def trial(rate: float) -> Trial:
        return at_rate(subject, executor, threads, rate, queries, budget_ms, draw)

    yield from _search(capacity, budget_ms, trial)


def _search(capacity: float, budget_ms: float, trial: Callable[[float], Trial]) -> Iterator[Trial]:
    kept, failed = 0.0, capacity
    for share in (0.25, 0.5, 0.75, 0.9):
        found = trial(share * capacity)
        yield found
        if not found.keeps(budget_ms):
            failed = share * capacity
            break
        kept = share * capacity
    lowest = 0.02 * capacity
    while failed > 1.05 * max(kept, lowest):
        middle = (kept + failed) / 2 if kept else max(failed / 2, lowest)
        found = trial(middle)
        yield found
        if found.keeps(budget_ms):
            kept = middle
        else:
            failed = middle
