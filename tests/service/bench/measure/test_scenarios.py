"""How runs are made: warm-up, blocks, all cores, and a rate whose latencies count from the intended times."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest

from service.bench.measure.scenarios import (
    LEAD_IN_RUNS,
    all_at_once,
    at_rate,
    one_after_another,
    search_rate,
    warm_up,
)
from service.bench.measure.subjects import StageTimes


class Busy:
    """Takes these milliseconds of processor time, run by run; remembers which inputs it was given."""

    def __init__(self, *milliseconds: float) -> None:
        self._durations: Iterator[float] = (milliseconds[at % len(milliseconds)] for at in count())
        self.numbers: list[int] = []

    def run(self, number: int) -> StageTimes:
        self.numbers.append(number)
        start = time.perf_counter_ns()
        end = start + next(self._durations) * 1e6
        while time.perf_counter_ns() < end:
            pass
        return {"inference": time.perf_counter_ns() - start}


def test_warm_up_ends_when_three_windows_agree() -> None:
    found = warm_up(Busy(0.2), "inference", 0.0)
    assert found.stable
    assert found.runs == 10 + 10 * len(found.windows_ns)
    assert len(found.windows_ns) >= 3


def test_unstable_warm_up() -> None:
    growing = Busy(*(0.01 * 1.3 ** (at // 10) for at in range(110)))
    found = warm_up(growing, "inference", 0.0)
    assert not found.stable
    assert len(found.windows_ns) == 10


def test_lead_in_runs_are_not_counted() -> None:
    subject = Busy(1.0, 1.0, 0.01, 0.01, 0.01)
    columns = one_after_another(subject, 3, 0.0, 7)
    assert len(columns["inference"]) == 3
    assert max(columns["inference"]) < 1e6
    assert subject.numbers == [7, 8, 7, 8, 9]
    assert LEAD_IN_RUNS == 2


def test_a_block_lasts_as_long_as_it_must() -> None:
    assert len(one_after_another(Busy(0.1), 1, 0.02)["inference"]) > 20


def test_offline_counts_every_image_once() -> None:
    subject = Busy(0.01)
    with ThreadPoolExecutor(2) as executor:
        images, elapsed_ns = all_at_once(subject, executor, 2, 100, 0.0)
    assert images == 100
    assert sorted(subject.numbers) == list(range(100))
    assert elapsed_ns >= 100 * 0.01e6 / 2


def test_latency_includes_the_wait() -> None:
    """2 ms of work every 1 ms: a closed loop sees 2 ms, an open one sees the queue grow."""
    with ThreadPoolExecutor(1) as executor:
        trial = at_rate(Busy(2.0), executor, 1, 1000.0, 100, 1000.0, random.Random(1))
    assert trial.abandoned == 0
    assert trial.latencies_ns[-1] > 50e6
    assert trial.latencies_ns[-1] > 10 * np.median(trial.inference_ns)
    assert trial.latencies_ns[-1] > 10 * trial.latencies_ns[0]


def test_a_hopeless_backlog_is_given_up() -> None:
    with ThreadPoolExecutor(1) as executor:
        trial = at_rate(Busy(2.0), executor, 1, 100_000.0, 1000, 0.5, random.Random(1))
    assert trial.abandoned > 900
    assert len(trial.latencies_ns) + trial.abandoned == 1000
    assert not trial.keeps(1e6)


def test_rate_with_too_few_queries() -> None:
    with ThreadPoolExecutor(1) as executor:
        few = at_rate(Busy(0.01), executor, 1, 20_000.0, 661, 1000.0, random.Random(1))
        enough = at_rate(Busy(0.01), executor, 1, 20_000.0, 662, 1000.0, random.Random(1))
    assert not few.keeps(1000.0)
    assert enough.keeps(1000.0)


@pytest.mark.slow
@pytest.mark.parametrize(("budget_ms", "kept"), [(2000.0, True), (0.01, False)])
def test_search_for_the_highest_rate(budget_ms: float, kept: bool) -> None:
    with ThreadPoolExecutor(1) as executor:
        trials = list(search_rate(Busy(0.02), executor, 1, 662, budget_ms, random.Random(1)))
    assert any(trial.keeps(budget_ms) for trial in trials) == kept
    assert len(trials) < 20
