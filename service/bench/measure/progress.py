"""Progress of a benchmark, and an estimate of the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from service.bench.measure.plan import Plan
from service.bench.measure.scenarios import LEAD_IN_RUNS

_PROCESS_S = 0.8
_WARM_UP_EXTRA_S = 0.2
_MACS_PER_S = 2e10
_SEARCH_TRIALS = 8


@dataclass(frozen=True)
class Progress:
    """An object says how far a benchmark is.

    `doing` is the current step in words. `launch` and `round` count from 1, and are 0 before the first launch
    or round. `done` is the share of the benchmark that is done, 0 to 1. `left_s` is an estimate of the
    remaining seconds.
    """

    doing: str
    launch: int
    launches: int
    round: int
    rounds: int
    done: float
    elapsed_s: float
    left_s: float


class Timetable:
    """A timetable estimates the remaining time of a benchmark.

    It knows how many seconds each step of the benchmark should take. It corrects these seconds by the time
    that the finished steps took.
    """

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self._plan = plan
        self._clock = clock
        self._start = clock()
        macs = {model.name: model.macs for model in plan.models}
        self._run_s = {entry.name: 2e-4 + macs[entry.model] / _MACS_PER_S for entry in plan.entries}
        self._finished: dict[str, int] = {}
        self._measured_run_s: set[str] = set()

    def learn_run(self, entry: str, seconds: float) -> None:
        """Set how many seconds one run of an entry takes."""
        self._run_s[entry] = seconds

    def finish(self, part: str) -> None:
        """Count a finished step of the benchmark: `memory`, `launch`, `warm-up NAME` or `block NAME`."""
        self._finished[part] = self._finished.get(part, 0) + 1

    def now(self, doing: str, launch: int = 0, round_number: int = 0) -> Progress:
        """Return the progress now, with an estimate of the remaining time."""
        configuration = self._plan.configuration
        spent = left = 0.0
        for part, (count, seconds) in self._parts().items():
            finished = min(count, self._finished.get(part, 0))
            spent += finished * seconds
            left += (count - finished) * seconds
        elapsed = self._clock() - self._start
        # The estimated seconds are wrong at first, but their ratios are right. So scale by the pace so far.
        pace = elapsed / spent if spent > 1 else 1.0
        total = spent + left
        return Progress(
            doing=doing,
            launch=launch,
            launches=configuration.launches,
            round=round_number,
            rounds=configuration.rounds,
            done=min(1.0, spent / total) if total else 1.0,
            elapsed_s=elapsed,
            left_s=left * min(max(pace, 0.5), 2.0),
        )

    def _parts(self) -> dict[str, tuple[int, float]]:
        """Return how often each kind of step occurs in the benchmark, and its expected seconds, by name."""
        plan, configuration = self._plan, self._plan.configuration
        launches, rounds = configuration.launches, configuration.rounds
        parts = {"launch": (launches, _PROCESS_S), "memory": (len(memory_entries(plan)), _PROCESS_S)}
        for name, run_s in self._run_s.items():
            warm_up_s = max(plan.warm_up_s, 10 * run_s) + max(_WARM_UP_EXTRA_S, 30 * run_s)
            parts[f"warm-up {name}"] = (launches, warm_up_s)
            if configuration.scenario == "server":
                block_s = _SEARCH_TRIALS * plan.trial_queries * run_s / max(1, plan.cores) / 0.6
            elif configuration.scenario == "offline":
                block_s = max(configuration.block_s, configuration.block_runs * run_s)
            else:
                block_s = max(configuration.block_s, configuration.block_runs * run_s) + LEAD_IN_RUNS * run_s
            parts[f"block {name}"] = (launches * rounds, block_s)
        return parts


def memory_entries(plan: Plan) -> tuple[str, ...]:
    """Return the entries whose memory is measured: all except controls and entries over HTTP."""
    return tuple(entry.name for entry in plan.entries if not entry.control and entry.via == "session")
