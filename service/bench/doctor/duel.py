"""Two ways to do the same, timed in turn: a quick answer to "is one slower?", not a benchmark."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 9
_BLOCK_NS = 20_000_000
_MIN_RUNS, _MAX_RUNS = 5, 200


@dataclass(frozen=True)
class Duel:
    """Typical times of `a` and `b`, and a's time over b's: the median of the rounds, the least, the most."""

    a_ns: int
    b_ns: int
    ratio: float
    low: float
    high: float

    def a_is_slower(self, by: float = 0.0) -> bool:
        """Whether `a` was slower in every round, and by more than that fraction in the median one.

        Nine rounds that all say the same happen by chance once in 256.
        """
        return self.low > 1 and self.ratio > 1 + by

    @property
    def words(self) -> str:
        """The figures, for evidence."""
        return f"{self.a_ns / 1e6:.3g} ms against {self.b_ns / 1e6:.3g} ms ({ROUNDS} rounds in turn)"


def duel(a: Callable[[], object], b: Callable[[], object]) -> Duel:
    """Time the two in turn, in blocks of about 20 ms, after warming both up."""
    runs = {}
    for each in (a, b):
        for _ in range(_MIN_RUNS):
            each()
        runs[each] = min(_MAX_RUNS, max(_MIN_RUNS, _BLOCK_NS // max(1, _timed(each))))
    rounds = [
        (_median_ns(a, runs[a]), _median_ns(b, runs[b]))
        if number % 2
        else _swapped(_median_ns(b, runs[b]), _median_ns(a, runs[a]))
        for number in range(ROUNDS)
    ]
    ratios = [one / other for one, other in rounds]
    return Duel(
        a_ns=int(statistics.median(one for one, _ in rounds)),
        b_ns=int(statistics.median(other for _, other in rounds)),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
    )


def _swapped(one: int, other: int) -> tuple[int, int]:
    return other, one


def _median_ns(call: Callable[[], object], runs: int) -> int:
    return max(1, int(statistics.median(_timed(call) for _ in range(runs))))


def _timed(call: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start
