"""Arithmetic of benchmarks.gate: gates share no rounds, their counts, copies of networks, the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import accuracy
from benchmarks.gate.live import write_copy
from benchmarks.gate.page import HEADING, PAGE, section
from benchmarks.gate.record import EQUAL, RESULTS, SLOW, digest, launches, pack, slowdown, unpack
from benchmarks.gate.replay import EQUAL_GATE, SLOW_GATE, counted, replay
from benchmarks.instrument.launch import open_network
from benchmarks.results import Record, Results
from models.zoo.card import read_card
from models.zoo.files import NETWORKS
from service.cli.gate.decision import MAX_LAUNCHES, MIN_LAUNCHES, Limits

ROUNDS = 8
LIMIT = Limits().max_slower


def traces(slower: float, launch_noise: float = 0.002, round_noise: float = 0.01) -> list[Record]:
    """Return 30 launches of 48 rounds whose `slow8` is slower by `slower`."""
    random = np.random.default_rng(0)
    factors = dict.fromkeys(EQUAL, 1.0) | {SLOW: 1 + slower}
    return [
        {
            "medians_us": {
                name: (1e6 * factor * np.exp(random.normal(random.normal(0, launch_noise), round_noise, 48)))
                .round()
                .astype(int)
                .tolist()
                for name, factor in factors.items()
            }
        }
        for _ in range(30)
    ]


def test_medians_are_unpacked() -> None:
    assert unpack(pack([1_000, 211_449.5, 15_000_049, 3])) == [1.0, 211.4, 15000.0, 0.0]


def test_slowdown_of_known_networks() -> None:
    share, low, high = slowdown(traces(0.08))
    assert low < share < high
    assert abs(share - 0.08) < 0.005


def test_gates_share_no_rounds() -> None:
    gates = replay(traces(0.03), EQUAL_GATE, LIMIT, ROUNDS)
    windows = [window for gate in gates for window in gate.windows]
    assert len(windows) == len(set(windows)) > 100
    assert all(number < 30 and window < 48 // ROUNDS for number, window in windows)
    for gate in gates:
        assert len({number for number, _ in gate.windows}) == len(gate.windows) == gate.judgement.launches
        assert MIN_LAUNCHES <= len(gate.windows) <= MAX_LAUNCHES
        assert gate.judgement.rounds == ROUNDS * len(gate.windows)


@pytest.mark.slow
def test_gates_end_with_a_verdict_or_all_their_launches() -> None:
    gates = replay(traces(0.03), SLOW_GATE, LIMIT, ROUNDS)
    undecided = [gate for gate in gates if gate.judgement.outcome == "undecided"]
    assert undecided
    assert all(len(gate.windows) == MAX_LAUNCHES for gate in undecided)


def test_gates_of_known_networks() -> None:
    recorded = traces(0.08)
    for names, expected in ((EQUAL_GATE, "pass"), (SLOW_GATE, "fail")):
        counts = counted(gate.judgement.outcome for gate in replay(recorded, names, LIMIT, ROUNDS))
        assert counts.outcomes[expected] == counts.n > 20  # type: ignore[index]


def test_accuracy_of_known_networks() -> None:
    answers = {"n": 10_000, "only_base": 110, "only_new": 90}
    assert accuracy.discordance(answers, 0.0) == 0.02
    equal = accuracy.replay(answers, 10_000, 0.0, 0.005, gates=200)
    worse = accuracy.replay(answers, 10_000, 0.015, 0.005, gates=200)
    assert equal.n == worse.n == 200
    assert equal.outcomes["fail"] == worse.outcomes["pass"] == 0
    assert equal.outcomes["pass"] > 150
    assert worse.outcomes["fail"] == 200
    few = accuracy.replay(answers, 200, 0.015, 0.005, gates=200)
    assert few.outcomes["undecided"] > 100


@pytest.mark.parametrize("channels", [0, 8])
def test_copies_answer_as_the_network(tmp_path: Path, channels: int) -> None:
    original = NETWORKS / "fashion-inverted-residual-int8"
    write_copy(original, tmp_path / "copy", channels)
    first, second = read_card(original), read_card(tmp_path / "copy")
    assert second.name == "copy"
    assert second.file.sha256 != first.file.sha256
    image = np.random.default_rng(0).normal(0, 1, (1, 1, 28, 28)).astype(np.float32)
    answers, copied = open_network(original)(image), open_network(tmp_path / "copy")(image)
    assert answers.keys() == copied.keys()
    assert all((answers[name] == copied[name]).all() for name in answers)


@pytest.mark.slow
def test_page_shows_the_committed_results() -> None:
    """The section is what `python -m benchmarks.gate page` makes, and its digests are those of the traces."""
    results = Results(RESULTS)
    text = PAGE.read_text()
    assert text[text.index(HEADING) :] == section(results)
    recorded = launches(results, "separable-81m", busy=False, part="proof")
    assert f"`{digest(recorded)}`" in text
