"""Arithmetic of benchmarks.instrument: disjoint segments, counts of verdicts, targets on the page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.instrument.order import disagreements
from benchmarks.instrument.page import page
from benchmarks.instrument.traces import ALIKE, SLOWER, judge, rates, segments, true_slowdowns
from benchmarks.results import Record, Results


def launch(number: int, rounds: int = 18, noise: float = 0.01) -> Record:
    """Return a launch whose copies are slower by their nominal share; all medians are different."""
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


def test_segments_are_disjoint() -> None:
    launches = [launch(number) for number in range(7)]
    parts = segments(launches, 3, 6)
    assert len(parts) == 2 * 3  # two groups of three launches in each of three windows
    used = [value for segment in parts for rounds in segment.medians["a1"].values() for value in rounds]
    assert len(used) == len(set(used)) == 6 * 3 * 6
    groups = {tuple(sorted(segment.medians["a1"])) for segment in parts}
    assert len(groups) > 2  # the grouping of launches differs between windows


def test_rates_of_equal_sessions_and_copies() -> None:
    launches = [launch(number) for number in range(9)]
    judged = [judge(segment) for segment in segments(launches, 3, 6)]
    counts = rates(judged, 0.01)
    assert counts["alike"][:2] == (0, 18)
    assert counts["slow10"][:2] == (9, 9)
    slowdowns = true_slowdowns(launches)
    for name, share in SLOWER.items():
        _, low, high = slowdowns[name]
        assert low < share < high


def test_disagreements_of_two_runs() -> None:
    first = {"a b": "faster", "a c": "indistinguishable", "b c": "slower"}
    second = {"a b": "faster", "a c": "indistinguishable", "b c": "indistinguishable"}
    assert disagreements(first, second) == (["b c"], 2)  # type: ignore[arg-type]
    assert disagreements(first, first) == ([], 2)  # type: ignore[arg-type]


@pytest.mark.slow
def test_page_of_missing_and_missed_results(tmp_path: Path) -> None:
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
    assert "10 % copy found in at least 99% (100.0%): met" in text


def test_results_are_read_back(tmp_path: Path) -> None:
    results = Results(tmp_path / "deep" / "results.jsonl")
    assert results.last("x") is None
    results.append("x", value=1)
    results.append("y", value=2)
    results.append("x", value=3)
    assert [record["value"] for record in results.of("x")] == [1, 3]
    assert results.last("x") == {"kind": "x", "value": 3}
