"""Significant differences are shown in points, a teacher's gain is tested, changed models are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.evaluate.significance import (
    GAIN,
    PAIRS,
    JudgedGain,
    JudgedMean,
    JudgedPair,
    Pairs,
    paragraphs,
    read_judgements,
)

DIGESTS = {"a": "1", "b": "2", "c": "3"}
GAINED: dict[str, Any] = {
    "student": "a",
    "teachers": ["b", "c"],
    "teacher": 0.95,
    "epochs": 6,
    "seeds": 5,
    "n": 10_000,
    "distilled": 0.945,
    "alone": 0.942,
    "difference": 0.003,
    "low": 0.001,
    "high": 0.005,
    "p": 0.02,
}


def pair(first: str, second: str, difference: float, p: float) -> JudgedPair:
    return JudgedPair(first=first, second=second, difference=difference, low=-0.1, high=0.1, p=p)


def test_significant_differences_are_shown_in_points() -> None:
    mean = JudgedMean(networks=("a", "b"), accuracy=0.95)
    judged = (pair("a", "b", -0.002, 0.3), pair("a", "c", 0.01, 1e-9), pair("c", "b", -0.012, 0.01))
    pairs = Pairs(n=10_000, sha256=DIGESTS, pairs=judged, averaged=mean)
    text = "\n".join(paragraphs(pairs, None, DIGESTS))
    assert "2 of 3 pairs differ significantly on the same 10000 images" in text
    table = """\
| network | 2 | 3 |
| --- | --- | --- |
| 1. `b` | · | 1.20 |
| 2. `a` |  | 1.00 |
| 3. `c` |  |  |
"""
    assert table in text
    assert text.endswith(
        "Averaging the probabilities of the 2 networks that were trained from random weights "
        "(all but the pruned, distilled and int8 ones) gives 95.00% top-1."
    )
    assert pairs.p("b", "a") == pairs.p("a", "b") == 0.3
    assert pairs.p("a", "d") is None
    with pytest.raises(ValueError, match="b: changed since `evaluate`; run: python -m models"):
        list(paragraphs(pairs, None, DIGESTS | {"b": "9"}))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [({}, "significant"), ({"low": -0.001}, "not significant"), ({"p": 0.2}, "not significant")],
)
def test_verdict_on_a_gain(changes: dict[str, float], verdict: str) -> None:
    (_, text) = paragraphs(None, JudgedGain.model_validate(GAINED | changes), {})
    assert "**Distillation from random weights**: 5 trainings of `a` with a teacher and 5 without" in text
    assert "6 epochs each. The teacher is the mean of the trained networks `b`, `c` (95.00%)." in text
    assert "On average, the students reach 94.50% with the teacher and 94.20% without it; " in text
    assert "the teacher gains +0.30 points" in text
    assert text.endswith(f"): {verdict}.")


def test_missing_and_damaged_judgements(tmp_path: Path) -> None:
    page = tmp_path / "zoo.md"
    assert read_judgements(page) == (None, None)
    (tmp_path / GAIN).write_text(json.dumps(GAINED))
    assert read_judgements(page) == (None, JudgedGain.model_validate(GAINED))
    (tmp_path / PAIRS).write_text("{}")
    with pytest.raises(ValueError, match=r"zoo-pairs\.json: not a result of"):
        read_judgements(page)
