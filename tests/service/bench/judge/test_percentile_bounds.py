"""The percentile rule: its thresholds, its definition, and what it promises, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bench.judge.percentile_bounds import percentile_bound, slowest_allowed
from service.latency.percentiles import MIN_SAMPLES


@pytest.mark.parametrize("fraction", [0.90, 0.95, 0.99])
def test_it_is_withheld_below_the_service_s_thresholds_and_the_maximum_at_them(fraction: float) -> None:
    least = MIN_SAMPLES[fraction]
    samples = list(range(1, least + 1))
    assert percentile_bound(samples[1:], fraction) is None
    found = percentile_bound(samples, fraction)
    assert found is not None
    assert (found.n, found.bound_ns) == (least, least)
    assert found.estimate_ns == math.ceil(fraction * least)


@given(st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_t_is_the_largest_that_the_binomial_allows(n: int, fraction: float) -> None:
    def cdf(t: int) -> float:
        return sum(math.comb(n, k) * (1 - fraction) ** k * fraction ** (n - k) for k in range(t + 1))

    t = slowest_allowed(n, fraction)
    assert t < 0 or cdf(t) <= 0.01 + 1e-12
    assert cdf(t + 1) > 0.01 - 1e-12


def test_a_large_n_does_not_underflow() -> None:
    t = slowest_allowed(100_000, 0.9)
    assert 9_700 < t < 9_800  # 10 000 less 2.33 standard deviations of 94.9


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_no_such_percentile_is_an_error(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile_bound([1], fraction)


@pytest.mark.parametrize("fraction", [0.90, 0.99])
def test_the_bound_holds_in_99_of_100_simulated_runs(fraction: float) -> None:
    random = np.random.default_rng(7)
    truth = math.exp(1.2816 if fraction == 0.90 else 2.3263)  # quantiles of the log-normal
    held = 0
    for _ in range(1000):
        samples = np.rint(random.lognormal(size=800) * 1e6).astype(int)
        found = percentile_bound(samples.tolist(), fraction)
        assert found is not None
        held += found.bound_ns >= truth * 1e6
    assert held >= 985  # at least 990 expected of the exact rule, which is conservative
