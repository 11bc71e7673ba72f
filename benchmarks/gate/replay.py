"""Replay recorded traces as gates. Like a real gate, each takes launches until its verdict is certain.

A launch of a replayed gate is a window of rounds of one recorded launch. All launches of a gate come from
different recorded launches, because only different processes are independent. In one call of `replay`, no two
gates share a round.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.results import Record
from service.cli.gate.decision import (
    MAX_LAUNCHES,
    MIN_LAUNCHES,
    LatencyJudgement,
    Outcome,
    judge_latency,
    log_ratios,
)

EQUAL_GATE = ("a1", "a2", "a3")
"""Sessions of a gate whose networks are equal: the base, the base again (control), and the new network."""
SLOW_GATE = ("a1", "a2", "slow8")
"""Sessions of a gate whose new network does 8 % more work, in the order of EQUAL_GATE."""


@dataclass(frozen=True)
class Replayed:
    """A replayed gate: its last judgement, and the windows that it used as its launches.

    `windows`: for each launch of the gate, the number of the recorded launch, and the number of the window in
    the recorded launch.
    """

    judgement: LatencyJudgement
    windows: tuple[tuple[int, int], ...]


def replay(
    traces: Sequence[Record], names: tuple[str, str, str], max_slower: float, rounds: int, seed: int = 0
) -> list[Replayed]:
    """Replay as many gates as the traces suffice for, with `rounds` rounds per launch.

    `names`: sessions of a gate, in the order of EQUAL_GATE. A gate draws each launch at random from the
    recorded launches that it has not used yet and that have the most unused windows. A gate starts only while
    at least MAX_LAUNCHES recorded launches have unused windows, so that no gate runs out of launches.
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
        """Number of all gates."""
        return sum(self.outcomes.values())

    def __add__(self, other: Counts) -> Counts:
        return Counts({outcome: n + other.outcomes[outcome] for outcome, n in self.outcomes.items()})


def counted(outcomes: Iterable[Outcome]) -> Counts:
    """Return the number of gates by outcome."""
    counter = Counter(outcomes)
    return Counts({"pass": counter["pass"], "fail": counter["fail"], "undecided": counter["undecided"]})
