"""Replay recorded traces as gates: each takes launches, as a real one does, until its verdict is certain.

No two gates of one call of `replay` share a round. A launch of a gate is a window of rounds of one recorded
launch, and the launches of a gate are different processes, because only those are independent.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.results import Record
from service.gate.decision import (
    MAX_LAUNCHES,
    MIN_LAUNCHES,
    LatencyJudgement,
    Outcome,
    judge_latency,
    log_ratios,
)

EQUAL_GATE = ("a1", "a2", "a3")
"""Base, base again and new of a gate whose networks are equal."""
SLOW_GATE = ("a1", "a2", "slow8")
"""The same of a gate whose new network does 8 % more work."""


@dataclass(frozen=True)
class Replayed:
    """The last judgement of a gate, and the rounds it took: (recorded launch, window) of each launch."""

    judgement: LatencyJudgement
    windows: tuple[tuple[int, int], ...]


def replay(
    traces: Sequence[Record], names: tuple[str, str, str], max_slower: float, rounds: int, seed: int = 0
) -> list[Replayed]:
    """Return the gates that the traces give, with `rounds` rounds per launch.

    Every launch of a gate is drawn from the recorded launches that it has not used, those with the most
    windows left first. A gate starts only while MAX_LAUNCHES launches have windows left, so none is cut off.
    """
    base, again, new = names
    left = {
        number: list(range(len(launch["medians_us"][base]) // rounds)) for number, launch in enumerate(traces)
    }
    shuffle = random.Random(seed)
    for windows in left.values():
        shuffle.shuffle(windows)
    gates = []
    while sum(map(bool, left.values())) >= MAX_LAUNCHES:
        slower: dict[int, list[float]] = {}
        control: dict[int, list[float]] = {}
        taken: list[tuple[int, int]] = []
        judgement: LatencyJudgement | None = None
        while len(taken) < MAX_LAUNCHES and (judgement is None or judgement.outcome == "undecided"):
            unused = [number for number, windows in left.items() if windows and number not in slower]
            most = max(len(left[number]) for number in unused)
            number = shuffle.choice([number for number in unused if len(left[number]) == most])
            window = left[number].pop()
            medians, part = traces[number]["medians_us"], slice(window * rounds, (window + 1) * rounds)
            slower[number], control[number] = log_ratios(
                medians[base][part], medians[again][part], medians[new][part]
            )
            taken.append((number, window))
            if len(taken) >= MIN_LAUNCHES:
                judgement = judge_latency(slower, control, max_slower)
        assert judgement is not None
        gates.append(Replayed(judgement, tuple(taken)))
    return gates


@dataclass(frozen=True)
class Counts:
    """Number of gates by outcome."""

    outcomes: dict[Outcome, int]

    @property
    def n(self) -> int:
        """The number of gates."""
        return sum(self.outcomes.values())

    def __add__(self, other: Counts) -> Counts:
        return Counts({outcome: n + other.outcomes[outcome] for outcome, n in self.outcomes.items()})


def counted(outcomes: Iterable[Outcome]) -> Counts:
    """Count outcomes."""
    counter = Counter(outcomes)
    return Counts({"pass": counter["pass"], "fail": counter["fail"], "undecided": counter["undecided"]})
