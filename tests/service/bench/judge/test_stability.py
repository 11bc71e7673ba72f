"""Warm-up windows and drift."""

from __future__ import annotations

from service.bench.judge.stability import drift, drifted, is_stable


def test_three_windows_in_a_row_make_it_stable() -> None:
    assert not is_stable([100, 100])
    assert is_stable([200, 100, 104, 105])
    assert not is_stable([100, 100, 106])


def test_drift_ratio() -> None:
    assert drift([100] * 5 + [500] * 5 + [110] * 5) == 1.1
    assert drift([1, 2]) is None
    assert drifted(1.1)
    assert drifted(0.9)
    assert not drifted(1.04)
    assert not drifted(0.96)
