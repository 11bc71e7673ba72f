"""Pairs that are not told apart are named, a teacher's gain is real or not, and what changed is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.judgements import GAIN, PAIRS, JudgedGain, JudgedPair, Pairs, judged_beside, paragraphs

DIGESTS = {"a": "1", "b": "2", "c": "3"}
GAINED: dict[str, Any] = {
    "student": "a",
    "seeds": 5,
    "n": 10_000,
    "distilled": 0.945,
    "alone": 0.942,
    "difference": 0.003,
    "low": 0.001,
    "high": 0.005,
    "p": 0.02,
}


def pair(first: str, second: str, p: float) -> JudgedPair:
    return JudgedPair(first=first, second=second, difference=0.002, low=-0.001, high=0.005, p=p)


def test_what_is_not_told_apart_is_named() -> None:
    pairs = Pairs(
        n=10_000, sha256=DIGESTS, pairs=(pair("a", "b", 0.3), pair("a", "c", 1e-9), pair("b", "c", 0.01))
    )
    (_, text) = paragraphs(pairs, None, DIGESTS)
    assert "2 of 3 pairs are told apart; not so `a` and `b` (+0.20 points, -0.10 to +0.50)." in text
    (_, text) = paragraphs(Pairs(n=9, sha256=DIGESTS, pairs=(pair("a", "c", 0.01),)), None, DIGESTS)
    assert "all 1 pairs of 3 networks are told apart" in text
    with pytest.raises(ValueError, match="not judged in pairs as they are now: b; run: python -m models"):
        list(paragraphs(pairs, None, DIGESTS | {"b": "9"}))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [({}, "real"), ({"low": -0.001}, "not shown to be real"), ({"p": 0.2}, "not shown to be real")],
)
def test_a_gain_is_real_over_images_and_over_seeds_or_it_is_not(
    changes: dict[str, float], verdict: str
) -> None:
    (_, text) = paragraphs(None, JudgedGain.model_validate(GAINED | changes), {})
    assert "5 trainings each of `a`: 94.50% and 94.20% on average; the teacher brings +0.30 points" in text
    assert text.endswith(f"): {verdict}.")


def test_files_beside_the_page_are_read_where_they_are(tmp_path: Path) -> None:
    page = tmp_path / "zoo.md"
    assert judged_beside(page) == (None, None)
    (tmp_path / GAIN).write_text(json.dumps(GAINED))
    assert judged_beside(page) == (None, JudgedGain.model_validate(GAINED))
    (tmp_path / PAIRS).write_text("{}")
    with pytest.raises(ValueError, match=r"zoo-pairs\.json is no judgement of networks"):
        judged_beside(page)
