"""Statistics against published figures, scipy, exact sums, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.zoo.card import Interval
from models.zoo.statistics import (
    MIN_SAMPLES,
    binomial_cdf,
    binomial_pmf,
    highest,
    holm,
    percentile,
    percentile_bound,
    samples_needed,
    slowest_allowed,
    student_95,
    student_p,
    student_quantile,
    wilson,
)


@pytest.mark.parametrize("fraction", [0.90, 0.95, 0.99])
def test_bound_is_withheld_below_the_threshold(fraction: float) -> None:
    least = MIN_SAMPLES[fraction]
    samples = list(range(1, least + 1))
    assert percentile_bound(samples[1:], fraction) is None
    found = percentile_bound(samples, fraction)
    assert found is not None
    assert (found.n, found.bound_ns) == (least, least)
    assert found.estimate_ns == math.ceil(fraction * least)


@given(st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_rank_of_the_bound_is_maximal(n: int, fraction: float) -> None:
    def cdf(t: int) -> float:
        return sum(math.comb(n, k) * (1 - fraction) ** k * fraction ** (n - k) for k in range(t + 1))

    t = slowest_allowed(n, fraction)
    assert t < 0 or cdf(t) <= 0.01 + 1e-12
    assert cdf(t + 1) > 0.01 - 1e-12


def test_bound_of_a_large_sample() -> None:
    t = slowest_allowed(100_000, 0.9)
    assert 9_700 < t < 9_800  # 10 000 less 2.33 standard deviations of 94.9


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_percentile_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile_bound([1], fraction)


@pytest.mark.parametrize("fraction", [0.90, 0.99])
def test_coverage_of_the_bound(fraction: float) -> None:
    random = np.random.default_rng(7)
    truth = math.exp(1.2816 if fraction == 0.90 else 2.3263)  # quantiles of the log-normal
    held = 0
    for _ in range(1000):
        samples = np.rint(random.lognormal(size=800) * 1e6).astype(int)
        found = percentile_bound(samples.tolist(), fraction)
        assert found is not None
        held += found.bound_ns >= truth * 1e6
    assert held >= 985  # at least 990 expected of the exact rule, which is conservative


def test_sample_sizes_of_percentiles() -> None:
    assert {fraction: samples_needed(fraction) for fraction in MIN_SAMPLES} == MIN_SAMPLES
    for fraction in (0.6, 0.75, 0.999, 0.9999):
        n = samples_needed(fraction)
        for samples, enough in ((n, True), (n - 1, False)):
            missed = fraction**samples + samples * (1 - fraction) * fraction ** (samples - 1)
            assert (missed <= 0.01) == enough


@pytest.mark.parametrize(("n", "p"), [(5, 0.5), (64, 0.1), (1000, 0.01)])
def test_binomial_cdf_equals_the_sum_of_terms(n: int, p: float) -> None:
    for k in (0, 1, n // 2, n - 1):
        exact = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
        assert binomial_cdf(k, n, p) == pytest.approx(exact, rel=1e-9)
    assert binomial_cdf(n, n, p) == 1
    allowed = slowest_allowed(n, 1 - p)
    if allowed >= 0:
        assert binomial_cdf(allowed, n, p) <= 0.01 < binomial_cdf(allowed + 1, n, p)


def test_wilson_interval_of_published_figures() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, and 0 of 20.
    assert (Interval.wilson(81, 263).low, Interval.wilson(81, 263).high) == (0.2553, 0.3662)
    assert (Interval.wilson(0, 20).low, Interval.wilson(0, 20).high) == (0.0, 0.1611)
    assert (Interval.wilson(20, 20).low, Interval.wilson(20, 20).high) == (0.8389, 1.0)


@pytest.mark.slow
@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_interval_contains_the_share(n: int, share: float) -> None:
    successes = round(n * share)
    interval, mirrored = Interval.wilson(successes, n), Interval.wilson(n - successes, n)
    assert 0 <= interval.low <= successes / n + 1e-4
    assert successes / n - 1e-4 <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1.5e-4)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_invalid_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        Interval.wilson(successes, n)


def test_wilson_interval_of_known_counts() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(7, 300) == pytest.approx((0.01136, 0.04740), abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_highest_of_equal_values() -> None:
    assert highest(["aa", "b", "cc"], len) == ["aa", "cc"]
    assert highest([3, -1, 2], lambda number: -number) == [-1]
    assert highest([], abs) == []


def test_holm_is_monotonic_and_capped() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.slow
@example(1524, 0.375, 0.015625)
@given(st.integers(1, 2000), st.floats(0.001, 0.999), st.floats(0, 1))
def test_binomial_equals_scipy(n: int, p: float, share: float) -> None:
    from scipy import stats

    k = round(n * share)
    assert binomial_pmf(k, n, p) == pytest.approx(stats.binom.pmf(k, n, p), rel=1e-8, abs=1e-300)
    cumulative = binomial_cdf(k, n, p)
    assert cumulative == pytest.approx(stats.binom.pmf(range(k + 1), n, p).sum(), rel=1e-8, abs=1e-300)
    # scipy's own is 2e-8 off for k = 24, n = 1524, p = 0.375, where exact fractions give ours to 3e-12
    assert cumulative == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-6, abs=1e-300)


def test_binomial_of_large_counts() -> None:
    from scipy import stats

    for k, n in ((25_000, 50_500), (100, 50_500), (26_000, 50_500), (0, 10**6)):
        assert binomial_cdf(k, n, 0.5) == pytest.approx(stats.binom.cdf(k, n, 0.5), rel=1e-6, abs=1e-300)


@pytest.mark.slow
@given(st.floats(-40, 40), st.integers(1, 3000))
def test_student_equals_scipy(t: float, degrees: int) -> None:
    from scipy import stats

    exact = degrees <= 1000
    p = 2 * stats.t.sf(abs(t), degrees)
    # scipy's own is 1e-10 off near t = 0: it gives 1 for t = 1.5e-10 and one degree
    assert student_p(t, degrees) == pytest.approx(p, abs=1e-9 if exact else 5e-4)
    assert student_95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9 if exact else 2e-3)


@pytest.mark.slow
@given(st.floats(1e-4, 0.9), st.integers(1, 1000))
def test_student_quantile_equals_scipy(p: float, degrees: int) -> None:
    from scipy import stats

    assert student_quantile(degrees, p) == pytest.approx(stats.t.isf(p / 2, degrees), rel=1e-7)


@given(st.floats(-40, 40))
def test_student_of_one_degree_is_cauchy(t: float) -> None:
    """With one degree of freedom, the distribution function is known in closed form."""
    assert student_p(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(abs(t)), abs=1e-15)


@pytest.mark.slow
@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_interval_equals_scipy(n: int, share: float) -> None:
    from scipy import stats

    successes = round(n * share)
    expected = stats.binomtest(successes, n).proportion_ci(0.95, "wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_thresholds_of_shown_percentiles() -> None:
    assert MIN_SAMPLES == {0.50: 1, 0.90: 64, 0.95: 130, 0.99: 662}
    for fraction, n in MIN_SAMPLES.items():
        samples = list(range(1, n + 1))
        assert percentile(samples[1:], fraction) is None
        assert percentile(samples, fraction) == math.ceil(fraction * n)
