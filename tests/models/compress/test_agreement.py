"""Agreement of two models, with its interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.compress.agreement import compare_logits, wilson


def test_the_interval_is_wilsons() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, and 0 of 20.
    assert (wilson(81, 263).low, wilson(81, 263).high) == (0.2553, 0.3662)
    assert (wilson(0, 20).low, wilson(0, 20).high) == (0.0, 0.1611)
    assert (wilson(20, 20).low, wilson(20, 20).high) == (0.8389, 1.0)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_the_interval_holds_the_share_and_mirrors(n: int, share: float) -> None:
    successes = round(n * share)
    interval, mirrored = wilson(successes, n), wilson(n - successes, n)
    assert 0 <= interval.low <= successes / n + 1e-4
    assert successes / n - 1e-4 <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1.5e-4)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_what_is_no_proportion_is_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(successes, n)


def test_agreement_counts_top_1_and_measures_divergence() -> None:
    first = np.array([[0, 1, 2], [3, 0, 0], [0, 5, 0], [1, 0, 0]], dtype=np.float32)
    second = np.array([[0, 1, 2], [0, 3, 0], [0, 5, 0], [1, 0, 0]], dtype=np.float32)
    compared = compare_logits(first, second)
    assert (compared.n, compared.top_1_agreement) == (4, 0.75)
    p = np.exp([3.0, 0, 0]) / np.exp([3.0, 0, 0]).sum()
    assert compared.divergence == pytest.approx((p[0] - p[1]) * 3 / 4, rel=1e-5)
    assert compare_logits(first, first).divergence == pytest.approx(0, abs=1e-9)
    # Adding a constant to all logits of an image changes no probability.
    assert compare_logits(first, first + 100).divergence == pytest.approx(0, abs=1e-5)


def test_logits_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_logits(np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_logits(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
