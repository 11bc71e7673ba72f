"""The test whether one way to prepare pictures is better than another, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from service.own_models.sources.likelihood import (
    LEAST_DIFFERENCE,
    SIGNIFICANCE,
    adjusted,
    ahead,
    interval,
    p_value,
)


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [1, 5, 12, 14, 15, 60])
@pytest.mark.parametrize("ways", [1, 19])
def test_the_interval_is_of_the_means_that_the_test_does_not_rule_out(pictures: int, ways: int) -> None:
    random = np.random.default_rng(pictures)
    level = SIGNIFICANCE / ways
    for mean in (0.1, 0.3, 0.5, 1.0, 2.0):
        differences = random.normal(mean, 1, pictures)
        low, high = interval(differences, level)
        assert (low > 0) == (p_value(differences) < level)
        if np.isfinite(low):
            assert p_value(differences - low - 1e-6) >= level > p_value(differences - low + 1e-6)
        assert low <= differences.mean() <= high
        assert interval(-differences, level) == pytest.approx((-high, -low))


def test_a_sure_difference_that_is_too_small_decides_nothing() -> None:
    assert adjusted(np.full(60, LEAST_DIFFERENCE * 0.9), 19) == 1
    assert adjusted(np.full(60, LEAST_DIFFERENCE * 1.1), 19) < SIGNIFICANCE
    assert adjusted(np.array([]), 19) == adjusted(np.array([np.nan]), 19) == 1


def test_words_have_the_interval() -> None:
    words = ahead(np.array([0.2, 0.4] * 30), 19)
    assert words.startswith("log-probability of the true class higher by 0.30 (0.")
    assert words.endswith("than with {}, 60 pictures")
