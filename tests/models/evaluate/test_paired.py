"""Paired tests against scipy's, and against what must come out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from models.evaluate.gain import gain
from models.zoo.paired import compare, mcnemar


@given(st.integers(0, 400), st.integers(0, 400))
def test_the_mid_p_is_that_of_the_binomial(b: int, c: int) -> None:
    n, less = b + c, min(b, c)
    expected = 1.0
    if b != c:
        expected = 2 * stats.binom.cdf(less, n, 0.5) - stats.binom.pmf(less, n, 0.5)
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-6, abs=1e-300)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_thousands_of_images_are_no_overflow() -> None:
    assert 0 < mcnemar(3000, 2800) < 0.01
    assert mcnemar(6000, 2000) < 1e-100
    assert mcnemar(2000, 6000) == mcnemar(6000, 2000)


def test_a_difference_is_counted_per_image() -> None:
    first = np.array([True] * 930 + [False] * 70)
    second = np.array([True] * 900 + [False] * 90 + [True] * 10)
    found = compare(first, second)
    assert (found.n, found.only_first, found.only_second) == (1000, 30, 10)
    assert found.difference == pytest.approx(0.02)
    assert found.low < 0.02 < found.high
    assert found.low > 0
    assert found.p < 0.01
    assert compare(second, first).difference == -found.difference
    assert compare(first, first).p == 1


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        draws = random.random(500)
        first, second = draws < 0.9, (draws > 0.05) & (draws < 0.93)
        found = compare(first, second)
        held += found.low <= 0.9 - 0.88 <= found.high
    assert 930 <= held <= 975


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        compare(np.array([True]), np.array([True, False]))
    with pytest.raises(ValueError, match="cannot be paired"):
        compare(np.array([], dtype=bool), np.array([], dtype=bool))


def test_a_gain_must_hold_over_images_and_seeds() -> None:
    random = np.random.default_rng(1)
    without = random.random((5, 4000)) < 0.93
    better = without | (random.random((5, 4000)) < 0.15)
    found = gain(better, without)
    assert 0 < found.low < found.difference < found.high
    assert found.p < 0.01
    assert (found.seeds, found.n, len(found.by_seed)) == (5, 4000, 5)
    # As many images, but it is only one seed of five that gains.
    lucky = without.copy()
    lucky[0] = True
    found = gain(lucky, without)
    assert found.low <= 0
    assert found.p > 0.2
    with pytest.raises(ValueError, match="two seeds or more"):
        gain(better[:1], without[:1])
