"""Distributions of durations: an HDR histogram to record into, and a sparse copy to merge and read."""

from __future__ import annotations

import ctypes
import functools
import math
import weakref
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyhdrh
from hdrh.codec import payload_header_size
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from models.zoo.statistics import MIN_SAMPLES
from service.latency.stages import milliseconds

HIGHEST_US = 2**26 - 1
"""Longest duration that is told apart (67.1 s); longer ones count as this long, their maximum stays exact."""

SIGNIFICANT_DIGITS = 3
_COUNTER_BYTES = 8


def _empty() -> HdrHistogram:
    histogram = HdrHistogram(
        1, HIGHEST_US, SIGNIFICANT_DIGITS, word_size=_COUNTER_BYTES, b64_wrap=False
    )  # base64 would add a third to every row
    # The two refer to each other, so that without this each histogram would keep its 140 kB until the garbage
    # collector comes by: hundreds of megabytes at some dozens a second.
    histogram.encoder.histogram = weakref.proxy(histogram)
    return histogram


_LAYOUT = _empty()
_SLOTS: int = _LAYOUT.counts_len
_SHAPE = slice(8, payload_header_size)  # of the header: after its magic number and its length
_SHAPE_BYTES = zlib.decompress(_LAYOUT.encode())[_SHAPE]


@dataclass(frozen=True, slots=True)
class Summary:
    """What is told of a distribution, in milliseconds; None where there are too few samples."""

    count: int
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None


Percentiles = tuple[int, int, int, int]
"""p50, p90, p95 and p99 in nanoseconds, however few samples there are."""

EMPTY_SUMMARY = Summary(0, None, None, None, None, None, None)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Counts of durations by HDR slot, only the slots that are in use; count, sum and maximum are exact.

    `slots` uint16 (n,) ascending, `counts` (n,) uint32, or int64 where they could be too large for that: an
    answer about a month holds ten thousand distributions.
    """

    count: int
    sum_ns: int
    max_ns: int
    slots: NDArray[np.uint16]
    counts: NDArray[np.uint32] | NDArray[np.int64]

    def encode(self) -> bytes:
        """The distribution as a compressed HDR histogram (V2, without base64), for any HDR tool to read."""
        histogram = _empty()
        if self.count:
            np.frombuffer(histogram.counts, dtype=np.int64)[self.slots] = self.counts
            histogram.set_internal_tacking_values(int(self.slots[0]), int(self.slots[-1]), self.count)
        encoded: bytes = histogram.encode()
        return encoded

    def percentiles_ns(self) -> Percentiles:
        """The percentiles, nearest rank, at the slot's upper end; zeros without samples."""
        if not self.count:
            return (0, 0, 0, 0)
        ranks = np.cumsum(self.counts, dtype=np.int64)
        wanted = [math.ceil(self.count * fraction) for fraction in MIN_SAMPLES]
        p50, p90, p95, p99 = (
            min(slot_end_us(slot) * 1000, self.max_ns)
            for slot in self.slots.take(np.searchsorted(ranks, wanted)).tolist()
        )
        return p50, p90, p95, p99

    def summary(self) -> Summary:
        """Mean, percentiles and maximum, to the microsecond."""
        return summarise(self.count, self.sum_ns, self.max_ns, self.percentiles_ns())


def summarise(count: int, sum_ns: int, max_ns: int, percentiles_ns: Percentiles) -> Summary:
    """What is told of a distribution with these figures: percentiles with too few samples are withheld."""
    if not count:
        return EMPTY_SUMMARY
    p50, p90, p95, p99 = (
        milliseconds(each) if count >= needed else None
        for each, needed in zip(percentiles_ns, MIN_SAMPLES.values(), strict=True)
    )
    return Summary(count, milliseconds(round(sum_ns / count)), p50, p90, p95, p99, milliseconds(max_ns))


class Decoder:
    """Undoes `Distribution.encode`, with one set of counters for any number of them. Not thread safe.

    The library's objects around its decoding function take three times as long, most of it for a fresh set of
    counters each; an answer about a month decodes ten thousand.
    """

    def __init__(self) -> None:
        self._histogram = _empty()
        self._dense = np.frombuffer(self._histogram.counts, dtype=np.int64)
        self._address = ctypes.addressof(self._histogram.counts)

    def decode(self, encoded: bytes, count: int, sum_ns: int, max_ns: int) -> Distribution:
        """The distribution; count, sum and maximum are kept beside the histogram.

        Raises ValueError for bytes that are no histogram, or one with other slots.
        """
        try:
            data = zlib.decompress(encoded)
            if data[_SHAPE] != _SHAPE_BYTES:
                raise ValueError("the histogram has other slots")
            found = pyhdrh.decode(data, payload_header_size, self._address, _SLOTS, _COUNTER_BYTES)
        except Exception as error:  # zlib's own, and several that the library's C code raises
            self._dense[:] = 0
            raise ValueError(f"no HDR histogram in these {len(encoded)} bytes") from error
        if not found["total"]:
            return merge([])
        low, high = found["min_nonzero_index"], found["max_nonzero_index"]
        decoded = _sparse(self._dense, low, high, count, sum_ns, max_ns)
        self._dense[low : high + 1] = 0
        return decoded


def merge(parts: Sequence[Distribution]) -> Distribution:
    """The distribution of all samples together."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Distribution(0, 0, 0, np.empty(0, np.uint16), np.empty(0, np.uint32))
    # float64 sums are exact up to 2**53 samples; bincount's own conversions would take twice as long
    dense = np.bincount(
        np.concatenate([part.slots for part in parts], dtype=np.intp),
        weights=np.concatenate([part.counts for part in parts], dtype=np.float64),
    )
    slots = np.flatnonzero(dense)
    count = sum(part.count for part in parts)
    return Distribution(
        count=count,
        sum_ns=sum(part.sum_ns for part in parts),
        max_ns=max(part.max_ns for part in parts),
        slots=slots.astype(np.uint16),
        counts=_narrow(dense[slots], count),
    )


class DurationHistogram:
    """Records durations. Not thread safe: who shares it guards it."""

    __slots__ = ("_histogram", "count", "max_ns", "sum_ns")

    def __init__(self) -> None:
        self._histogram = _empty()
        self.count = 0
        self.sum_ns = 0
        self.max_ns = 0

    def record(self, duration_ns: int) -> None:
        """Add one duration in nanoseconds; a negative one counts as 0."""
        duration_ns = max(duration_ns, 0)
        self._histogram.record_value(min((duration_ns + 500) // 1000, HIGHEST_US))
        self.count += 1
        self.sum_ns += duration_ns
        if duration_ns > self.max_ns:
            self.max_ns = duration_ns

    def snapshot(self) -> Distribution:
        """A copy that later recordings do not change."""
        histogram = self._histogram
        low = histogram.get_counts_array_index(min(histogram.min_value, histogram.max_value))
        high = histogram.get_counts_array_index(histogram.max_value)
        dense = np.frombuffer(histogram.counts, dtype=np.int64)
        return _sparse(dense, low, high, self.count, self.sum_ns, self.max_ns)


def _sparse(
    dense: NDArray[np.int64], low: int, high: int, count: int, sum_ns: int, max_ns: int
) -> Distribution:
    """A copy of the slots from `low` to `high` that are in use."""
    part = dense[low : high + 1]
    used = (part != 0).nonzero()[0]  # of bool: twice as fast as of the counts
    slots = used.astype(np.uint16)
    slots += np.uint16(low)
    return Distribution(count, sum_ns, max_ns, slots, _narrow(part[used], count))


def _narrow(counts: NDArray[Any], count: int) -> NDArray[np.uint32] | NDArray[np.int64]:
    """Slots' shares of `count` samples, in the smaller type that holds them."""
    return counts.astype(np.uint32) if count < 2**32 else counts.astype(np.int64)


@functools.cache  # at most one for each slot
def slot_end_us(slot: int) -> int:
    """The longest duration in a slot, microseconds."""
    value: int = _LAYOUT.get_highest_equivalent_value(_LAYOUT.get_value_from_index(slot))
    return value


def slot_start_us(slot: int) -> int:
    """The shortest duration in a slot, microseconds."""
    value: int = _LAYOUT.get_value_from_index(slot)
    return value


def slot_of_us(microseconds: int) -> int:
    """The slot of a duration."""
    slot: int = _LAYOUT.get_counts_array_index(min(microseconds, HIGHEST_US))
    return slot
