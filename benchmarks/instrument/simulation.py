"""Test the rule for percentiles on simulated samples, independent and bursty, with a known percentile."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import Results
from models.zoo.statistics import samples_needed, slowest_allowed, wilson

RUNS = 10_000
_QUANTILES = {0.90: 1.2815516, 0.95: 1.6448536, 0.99: 2.3263479}


def record(results: Results) -> None:
    """Simulate every percentile, with its minimum sample size and with larger ones.

    Afterwards, simulate the p99 of bursty samples.
    """
    for fraction, z in _QUANTILES.items():
        for n in (samples_needed(fraction), 1600, 6400):
            held = _held(_Independent(n), n, fraction, math.exp(0.25 * z))
            results.append(
                "percentile-simulation", samples="independent", fraction=fraction, n=n, held=held, runs=RUNS
            )
    for mean_burst in (3, 10, 30, 100):
        truth = _bursty_p99(mean_burst)
        for n in (662, 1600, 6400):
            held = _held(_Bursty(mean_burst), n, 0.99, truth)
            results.append(
                "percentile-simulation",
                samples=f"bursts of {mean_burst}",
                fraction=0.99,
                n=n,
                held=held,
                runs=RUNS,
            )


class _Independent:
    """Simulated latencies, which are log-normal and independent of each other."""

    def __init__(self, n: int) -> None:
        self._random = np.random.default_rng(n)

    def draw(self, runs: int, n: int) -> NDArray[np.float64]:
        """Return samples, float64 (runs, n)."""
        return np.exp(0.25 * self._random.standard_normal((runs, n)))


class _Bursty:
    """Latencies with bursts, in which runs take 1.5 times as long. The length of a burst is geometric.

    2 % of the runs are in bursts, so that the bursts determine the p99.
    """

    def __init__(self, mean_burst: int) -> None:
        self._random = np.random.default_rng(mean_burst)
        self._leave = 1 / mean_burst
        self._enter = 0.02 / 0.98 * self._leave

    def draw(self, runs: int, n: int) -> NDArray[np.float64]:
        """Return samples, float64 (runs, n)."""
        in_burst = np.empty((runs, n), dtype=bool)
        state = self._random.random(runs) < 0.02
        chance = self._random.random((n, runs))
        for index in range(n):
            in_burst[:, index] = state
            state = np.where(state, chance[index] >= self._leave, chance[index] < self._enter)
        return np.exp(0.05 * self._random.standard_normal((runs, n))) * np.where(in_burst, 1.5, 1.0)


def _bursty_p99(mean_burst: int) -> float:
    """Return the true p99, which is the median of the runs in bursts.

    2 % of all runs are in bursts, and their durations hardly overlap with the other durations. So 1 % of all
    runs take longer than the median of the runs in bursts.
    """
    del mean_burst  # the mean length of bursts does not change the share of runs in bursts
    return 1.5


def _held(source: _Independent | _Bursty, n: int, fraction: float, truth: float) -> int:
    allowed = slowest_allowed(n, fraction)
    held = 0
    for _ in range(RUNS // 500):
        drawn = source.draw(500, n)
        bounds = np.partition(drawn, n - allowed, axis=1)[:, n - allowed]
        held += int((bounds >= truth).sum())
    return held


def interval(record: dict[str, object]) -> tuple[float, float]:
    """Return the 95 % interval of the share of simulated samples in which the upper bound held.

    The bound of a sample holds if it is at least the true percentile.
    """
    return wilson(int(record["held"]), int(record["runs"]))  # type: ignore[call-overload]
