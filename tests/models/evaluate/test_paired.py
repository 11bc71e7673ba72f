"""Paired tests against scipy's, and on constructed answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluate.gain import gain
from models.zoo.paired import compare, mcnemar, score_interval
from models.zoo.statistics import Z_95, wilson


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("b", "c", "n"), [(3, 0, 44), (0, 10, 100), (12, 9, 1000), (7.5, 2.25, 300), (0, 0, 50)]
)
def test_bounds_of_the_score_interval_are_z_standard_errors_away(b: float, c: float, n: int) -> None:
    """At a bound, the constrained likelihood is largest at its standard error, found here on a grid."""
    low, high = score_interval(b, c, n)
    for bound in (low, high):
        shares = np.linspace(max(0.0, -bound), (1 - bound) / 2, 1_000_001)[1:-1]
        both = 1 - 2 * shares - bound
        likelihood = (n - b - c) * np.log(both)
        if b:
            likelihood += b * np.log(shares + bound)
        if c:
            likelihood += c * np.log(shares)
        share = shares[likelihood.argmax()]
        error = np.sqrt((2 * share + bound - bound**2) / n)
        assert abs((b - c) / n - bound) == pytest.approx(Z_95 * error, rel=2e-3)
    assert score_interval(c, b, n) == pytest.approx((-high, -low))


def test_score_interval_of_equal_answers_is_wilsons() -> None:
    assert score_interval(0, 0, 765)[1] == pytest.approx(wilson(0, 765)[1])
    assert score_interval(10, 0, 10)[1] == 1
    assert score_interval(0, 10, 10)[0] == -1


def test_unpaired_answers() -> None:
    with pytest.raises(ValueError, match="allowed: one shape"):
        compare(np.array([True]), np.array([True, False]))
    with pytest.raises(ValueError, match="allowed: one shape"):
        compare(np.array([], dtype=bool), np.array([], dtype=bool))


@pytest.mark.slow
def test_gain_over_images_and_seeds() -> None:
    random = np.random.default_rng(1)
    without = random.random((5, 1000)) < 0.93
    better = without | (random.random((5, 1000)) < 0.15)
    result = gain(better, without)
    assert 0 < result.low < result.difference < result.high
    assert result.p < 0.01
    assert (result.seeds, result.n, len(result.by_seed)) == (5, 1000, 5)
    # The same total gain, but from one seed of five only.
    lucky = without.copy()
    lucky[0] = True
    result = gain(lucky, without)
    assert result.low <= 0
    assert result.p > 0.2
    with pytest.raises(ValueError, match="two seeds or more"):
        gain(better[:1], without[:1])
