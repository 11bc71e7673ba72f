"""Distributions: as exact as they say, the same merged as recorded together, the same after storage."""

from __future__ import annotations

import gc
import math
import os
import weakref

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from models.zoo.statistics import binomial_cdf
from service.latency.histogram import (
    HIGHEST_US,
    SIGNIFICANT_DIGITS,
    Distribution,
    HistogramCodec,
    merge,
    slot_end_us,
    slot_of_us,
    slot_start_us,
)
from tests.helpers.processes import resident

durations = st.lists(st.integers(0, 60_000_000_000), min_size=1, max_size=300)


def same(one: Distribution, other: Distribution) -> bool:
    return (
        (one.count, one.sum_ns, one.max_ns) == (other.count, other.sum_ns, other.max_ns)
        and one.slots.tolist() == other.slots.tolist()
        and one.counts.tolist() == other.counts.tolist()
    )


@given(durations)
def test_figures_are_those_of_the_samples(samples: list[int]) -> None:
    summary = Distribution.of(samples).summary()
    ordered = sorted(samples)
    assert summary.count == len(samples)
    assert summary.mean_ms == pytest.approx(sum(samples) / len(samples) / 1e6, abs=0.0006)
    assert summary.max_ms == pytest.approx(max(samples) / 1e6, abs=0.0006)
    for told, fraction, needed in (
        (summary.p50_ms, 0.5, 1),
        (summary.p90_ms, 0.9, 64),
        (summary.p95_ms, 0.95, 130),
        (summary.p99_ms, 0.99, 662),
    ):
        if len(samples) < needed:
            assert told is None
        else:
            exact_ms = ordered[math.ceil(fraction * len(samples)) - 1] / 1e6
            assert told == pytest.approx(exact_ms, rel=0.001, abs=0.0011)


@given(st.lists(durations, max_size=5))
def test_merge_equals_recording_together(parts: list[list[int]]) -> None:
    together = Distribution.of([sample for part in parts for sample in part]) if parts else merge([])
    assert same(merge([Distribution.of(part) for part in parts]), together)


@given(st.lists(durations, min_size=1, max_size=3))
def test_what_was_encoded_is_decoded(parts: list[list[int]]) -> None:
    codec = HistogramCodec()
    for part in parts:
        original = Distribution.of(part)
        decoded = codec.decode(codec.encode(original), original.count, original.sum_ns, original.max_ns)
        assert same(decoded, original)


def test_other_programs_can_read_the_encoding() -> None:
    samples = [1_000_000 + 7_000 * n for n in range(1000)]
    histogram = HdrHistogram.decode(HistogramCodec().encode(Distribution.of(samples)), False)
    assert histogram.get_total_count() == 1000
    assert histogram.get_value_at_percentile(50) == pytest.approx(4_493, rel=0.001)


@pytest.mark.parametrize(
    ("n", "p90", "p95", "p99"), [(63, 0, 0, 0), (64, 1, 0, 0), (130, 1, 1, 0), (662, 1, 1, 1)]
)
def test_percentiles_need_samples(n: int, p90: bool, p95: bool, p99: bool) -> None:
    summary = Distribution.of([2_000_000] * n).summary()
    assert summary.p50_ms == 2.0
    assert (summary.p90_ms, summary.p95_ms, summary.p99_ms) == (
        2.0 if p90 else None,
        2.0 if p95 else None,
        2.0 if p99 else None,
    )


def test_nothing_gives_no_figures() -> None:
    summary = merge([]).summary()
    assert summary.count == 0
    assert summary.mean_ms is summary.p50_ms is summary.max_ms is None


@given(durations)
def test_slots_are_those_of_an_hdr_histogram(samples: list[int]) -> None:
    histogram = HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)
    for sample in samples:
        histogram.record_value(min((sample + 500) // 1000, HIGHEST_US))
    distribution = Distribution.of(samples)
    for slot, count in zip(distribution.slots.tolist(), distribution.counts.tolist(), strict=True):
        value = histogram.get_value_from_index(slot)
        assert histogram.get_count_at_index(slot) == count
        assert slot_start_us(slot) == value
        assert slot_end_us(slot) == histogram.get_highest_equivalent_value(value)
        assert slot_of_us(value) == slot


def test_counters_are_freed_without_gc() -> None:
    gc.disable()
    try:
        codec = HistogramCodec()
        codec.encode(Distribution.of([1000]))
        inner = weakref.ref(codec._histogram)
        del codec
        assert inner() is None
        before = resident(os.getpid())
        for _ in range(1000):
            HistogramCodec().encode(Distribution.of([1000]))
        assert resident(os.getpid()) - before < 50e6  # it would be 280 MB
    finally:
        gc.enable()


def test_counts_beyond_32_bits_stay_exact() -> None:
    slots = Distribution.of([1_000_000]).slots
    many = Distribution(2**32 - 1, 5, 1_000_000, slots, np.array([2**32 - 1], np.uint32))
    all_of_them = merge([many, many, many])
    assert all_of_them.counts.tolist() == [3 * (2**32 - 1)]
    assert all_of_them.percentiles_ns() == many.percentiles_ns()
    codec = HistogramCodec()
    assert same(codec.decode(codec.encode(all_of_them), 3 * (2**32 - 1), 15, 1_000_000), all_of_them)


def test_extremes_are_kept() -> None:
    summary = Distribution.of([-5, 0, 400, 100_000_000_000]).summary()
    assert summary.count == 4
    assert summary.max_ms == 100_000.0
    assert summary.p50_ms == 0.0
    assert Distribution.of([100_000_000_000]).summary().p50_ms == pytest.approx(HIGHEST_US / 1000, rel=0.001)


@pytest.mark.parametrize("garbage", [b"", b"x" * 40, HistogramCodec().encode(Distribution.of([1000]))[:-3]])
def test_decode_of_invalid_bytes(garbage: bytes) -> None:
    codec = HistogramCodec()
    with pytest.raises(ValueError, match="not an HDR histogram"):
        codec.decode(garbage, 1, 1000, 1000)
    original = Distribution.of([1000, 5_000_000])
    assert same(codec.decode(codec.encode(original), 2, 5_001_000, 5_000_000), original)


def test_histograms_with_other_slots_are_refused() -> None:
    other = HdrHistogram(1, 1_000_000, 2, b64_wrap=False)
    other.record_value(1000)
    with pytest.raises(ValueError, match="not an HDR histogram"):
        HistogramCodec().decode(other.encode(), 1, 1_000_000, 1_000_000)


@pytest.mark.parametrize("n", [6, 7, 20, 100, 1001])
def test_interval_of_the_median_covers_it(n: int) -> None:
    """Exact coverage of the two order statistics, by the binomial distribution, is at least 95 %."""
    ranks = [slot_start_us(slot_of_us(rank)) for rank in range(1, n + 1)]
    low, high = Distribution.of([rank * 1000 for rank in ranks]).median_interval_ns()
    assert low is not None
    assert high is not None
    first, last = low // 1000, high // 1000
    assert binomial_cdf(last - 1, n, 0.5) - binomial_cdf(first - 1, n, 0.5) >= 0.95
    assert first <= n / 2 <= last


def test_interval_of_the_median_needs_six_samples() -> None:
    assert Distribution.of([1000] * 5).median_interval_ns() == (None, None)
