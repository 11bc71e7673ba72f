"""The curve and the histogram are those of a plain list of the durations."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from models.zoo.statistics import MIN_SAMPLES
from service.latency.histogram import Distribution, merge
from service.latency.shape import MOST_BINS, curve, histogram


def durations(kind: str, count: int) -> list[int]:
    source = random.Random(kind)
    if kind == "spread":
        return [int(source.lognormvariate(15, 0.5)) for _ in range(count)]
    if kind == "narrow":
        return [2_500_000 + source.randrange(2_000) for _ in range(count)]
    if kind == "tiny":
        return [source.randrange(3_000) for _ in range(count)]
    return [*(2_000_000 for _ in range(count - 1)), 90_000_000_000]  # one beyond what is told apart


@pytest.mark.parametrize("kind", ["spread", "narrow", "tiny", "outlier"])
@pytest.mark.parametrize("count", [1, 2, 100, 3000])
def test_both_are_those_of_a_plain_list(kind: str, count: int) -> None:
    plain = durations(kind, count)
    distribution = Distribution.of(plain)
    bins = histogram(distribution)
    assert len(bins) <= MOST_BINS
    assert sum(each.count for each in bins) == count
    for one, other in itertools.pairwise(bins):
        assert one.from_ms < one.to_ms == other.from_ms
    microseconds = [min((duration + 500) // 1000, 2**26 - 1) for duration in plain]
    for each in bins:
        assert each.count == sum(each.from_ms <= one / 1000 < each.to_ms for one in microseconds)
    assert bins[0].count
    assert bins[-1].count

    points = curve(distribution)
    assert points[0][0] == 0
    assert points == sorted(points)
    plain.sort()
    for fraction, ms in points:
        exact = min(plain[max(1, math.ceil(fraction * count)) - 1], (2**26 - 1) * 1000) / 1e6
        assert ms == pytest.approx(exact, rel=2e-3, abs=1e-3)
    told = dict(points)
    summary = distribution.summary()
    shown = {0.50: summary.p50_ms, 0.90: summary.p90_ms, 0.95: summary.p95_ms, 0.99: summary.p99_ms}
    assert {fraction: told.get(fraction) for fraction in MIN_SAMPLES} == shown


def test_nothing_recorded_has_no_shape() -> None:
    assert curve(merge([])) == list(histogram(merge([]))) == []
