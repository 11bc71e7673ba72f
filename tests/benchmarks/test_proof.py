"""The proof's own arithmetic: disjoint segments, verdicts counted right, a page that says what was missed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from benchmarks.instrument.order import disagreements
from benchmarks.instrument.page import page
from benchmarks.instrument.traces import ALIKE, SLOWER, judge, rates, segments, true_slowdowns
from benchmarks.results import Record, Results


def launch(number: int, rounds: int = 18, noise: float = 0.01) -> Record:
    """A launch whose copies are slower by what their names say; every median tells where it comes from."""
    random = np.random.default_rng(number)
    factors = dict.fromkeys(ALIKE, 1.0) | {name: 1 + share for name, share in SLOWER.items()}
    return {
        "model": "made-up",
        "quiet": True,
        "at": float(number),
        "medians_ns": {
            name: (1e6 * factor * np.exp(random.normal(0, noise, rounds))).tolist()
            for name, factor in factors.items()
        },
    }


def test_segments_are_disjoint_and_use_everything_once() -> None:
    launches = [launch(number) for number in range(7)]
    found = segments(launches, 3, 6)
    assert len(found) == 2 * 3  # two groups of three launches in each of three stretches
    used = [value for segment in found for rounds in segment.medians["a1"].values() for value in rounds]
    assert len(used) == len(set(used)) == 6 * 3 * 6
    groups = {tuple(sorted(segment.medians["a1"])) for segment in found}
    assert len(groups) > 2  # which launches go together changes


def test_equal_sessions_are_not_told_apart_and_copies_are_found() -> None:
    launches = [launch(number) for number in range(9)]
    judged = [judge(segment) for segment in segments(launches, 3, 6)]
    found = rates(judged, 0.01)
    assert found["alike"][:2] == (0, 18)
    assert found["slow10"][:2] == (9, 9)
    slowdowns = true_slowdowns(launches)
    for name, share in SLOWER.items():
        _, low, high = slowdowns[name]
        assert low < share < high


def test_an_order_that_differs_is_a_disagreement_and_two_ties_are_none() -> None:
    one = {"a b": "faster", "a c": "indistinguishable", "b c": "slower"}
    other = {"a b": "faster", "a c": "indistinguishable", "b c": "indistinguishable"}
    assert disagreements(one, other) == (["b c"], 2)  # type: ignore[arg-type]
    assert disagreements(one, one) == ([], 2)  # type: ignore[arg-type]


def test_the_page_says_what_is_missing_and_what_was_missed(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    assert page(results).count("Not measured yet.") == 5
    results.append("loadgen", model="m", scenario="offline", rounds=3, ratio=1.2, low=1.1, high=1.3)
    for number in range(6):
        record = launch(number)
        results.append("trace-launch", **record)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"kind": "cut off')
    text = page(results)
    assert "within 5 %: **missed**" in text
    assert "6 launches" in text
    assert "after the rule was chosen" not in text
    results.append("rule-chosen", at=2.0)
    assert re.search(r"launches after the rule was chosen \| \d/6 = ", page(results))
    assert "10 % found in at least 99% (100.0%): met" in text


def test_what_was_appended_is_found_again(tmp_path: Path) -> None:
    results = Results(tmp_path / "deep" / "results.jsonl")
    assert results.last("x") is None
    results.append("x", value=1)
    results.append("y", value=2)
    results.append("x", value=3)
    assert [record["value"] for record in results.of("x")] == [1, 3]
    assert results.last("x") == {"kind": "x", "value": 3}
