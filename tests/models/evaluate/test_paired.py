"""Paired tests against scipy's, and on constructed answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluate.paired import compare, gain, mcnemar


@given(st.integers(0, 400), st.integers(0, 400))
def test_mid_p_equals_scipy(b: int, c: int) -> None:
    from scipy import stats

    n, less = b + c, min(b, c)
    expected = 1.0
    if b != c:
        expected = 2 * stats.binom.cdf(less, n, 0.5) - stats.binom.pmf(less, n, 0.5)
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-6, abs=1e-300)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_mid_p_of_thousands_of_images() -> None:
    assert 0 < mcnemar(3000, 2800) < 0.01
    assert mcnemar(6000, 2000) < 1e-100
    assert mcnemar(2000, 6000) == mcnemar(6000, 2000)


def test_difference_of_paired_answers() -> None:
    first = np.array([True] * 930 + [False] * 70)
    second = np.array([True] * 900 + [False] * 90 + [True] * 10)
    result = compare(first, second)
    assert (result.n, result.only_first, result.only_second) == (1000, 30, 10)
    assert result.difference == pytest.approx(0.02)
    assert result.low < 0.02 < result.high
    assert result.low > 0
    assert result.p < 0.01
    assert compare(second, first).difference == -result.difference
    assert compare(first, first).p == 1


def test_coverage_of_the_interval() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        draws = random.random(500)
        first, second = draws < 0.9, (draws > 0.05) & (draws < 0.93)
        result = compare(first, second)
        covered += result.low <= 0.9 - 0.88 <= result.high
    assert 930 <= covered <= 975


def test_unpaired_answers() -> None:
    with pytest.raises(ValueError, match="allowed: one shape"):
        compare(np.array([True]), np.array([True, False]))
    with pytest.raises(ValueError, match="allowed: one shape"):
        compare(np.array([], dtype=bool), np.array([], dtype=bool))


def test_gain_over_images_and_seeds() -> None:
    random = np.random.default_rng(1)
    without = random.random((5, 4000)) < 0.93
    better = without | (random.random((5, 4000)) < 0.15)
    result = gain(better, without)
    assert 0 < result.low < result.difference < result.high
    assert result.p < 0.01
    assert (result.seeds, result.n, len(result.by_seed)) == (5, 4000, 5)
    # The same total gain, but from one seed of five only.
    lucky = without.copy()
    lucky[0] = True
    result = gain(lucky, without)
    assert result.low <= 0
    assert result.p > 0.2
    with pytest.raises(ValueError, match="two seeds or more"):
        gain(better[:1], without[:1])
