"""What a measurement says against itself."""

from __future__ import annotations

from service.bench.bundle import WarmUp
from service.bench.judge.flags import find_flags
from tests.service.bench.bundles import bundle


def test_stable_run_has_no_flags() -> None:
    steady = [[[1_000_000] * 32] * 6] * 3
    assert find_flags(bundle({"a": steady, "a#again": steady}, control="a#again")) == []


def test_drift_flag() -> None:
    rising = [[[1_000_000 + 40_000 * at] * 32 for at in range(6)]]
    (flag,) = find_flags(bundle({"a": rising}))
    assert (flag.kind, flag.entry) == ("drift", "a")
    assert flag.reason == "the last third took +15.7% against the first (medians)"


def test_void_if_baseline_differs_from_control() -> None:
    steady, other = [[[1_000_000] * 32] * 6] * 3, [[[1_030_000] * 32] * 6] * 3
    (flag,) = find_flags(bundle({"a": steady, "a#again": other}, control="a#again"))
    assert (flag.kind, flag.entry) == ("void", None)
    assert flag.reason.startswith("a measured twice differs from itself: +3.0%")
    # another model that differs voids nothing
    assert find_flags(bundle({"a": steady, "b": other})) == []


def test_unsettled_warm_up_is_flagged() -> None:
    steady = [[[1_000_000] * 32] * 6] * 2
    warm_ups = tuple(
        WarmUp(launch=at, entry="a", runs=110, window_p50_ns=(1, 2), stable=at == 0) for at in range(2)
    )
    (flag,) = find_flags(bundle({"a": steady}).model_copy(update={"warm_ups": warm_ups}))
    assert (flag.kind, flag.entry) == ("unstable", "a")
    assert flag.reason == "warm-up did not settle in 1 of 2 launches"
