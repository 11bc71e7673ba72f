"""Distributions of durations as sparse HDR histograms: create, merge, summarise, encode and decode."""

from __future__ import annotations

import ctypes
import math
import weakref
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyhdrh
from hdrh.codec import payload_header_size
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from models.zoo.statistics import MIN_SAMPLES, Z_95
from service.latency.stages import milliseconds

HIGHEST_US = 2**26 - 1
"""Longest duration, in microseconds, that the slots cover (67.1 s).

Longer durations are counted in the last slot. A distribution's maximum is exact nevertheless.
"""

SIGNIFICANT_DIGITS = 3
_COUNTER_BYTES = 8
_HALF_BITS = 10
"""Each power of two has 2**10 slots, for three significant digits."""

_MIN_FOR_MEDIAN = 6
"""Minimum number of samples for an interval of the median.

The fastest and the slowest of six samples bound the median with at least 95 % confidence.
"""

_SHAPE = slice(8, payload_header_size)  # the header without magic number and length


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean, percentiles and maximum of durations, in milliseconds.

    A figure is None if there are too few samples for it, or if it is unknown.
    """

    count: int
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None


Percentiles = tuple[int, int, int, int]
"""p50, p90, p95 and p99 in nanoseconds, which are computed even from few samples."""

_NO_SLOTS, _NO_COUNTS = np.empty(0, np.uint16), np.empty(0, np.uint32)

EMPTY_SUMMARY = Summary(0, None, None, None, None, None, None)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution of durations: the number of samples in each slot of an HDR histogram.

    Count, sum and maximum are exact. `slots`: the slots that have samples, uint16 (n,), ascending. `counts`:
    the number of samples in each of these slots, uint32 (n,), but int64 from 2**32 samples on. The small
    types save memory, because a query over a month has ten thousand distributions. A distribution that was
    made by `totals` has samples but no slots, and hence no percentiles.
    """

    count: int
    sum_ns: int
    max_ns: int
    slots: NDArray[np.uint16]
    counts: NDArray[np.uint32] | NDArray[np.int64]

    @classmethod
    def of(cls, durations_ns: Sequence[int]) -> Distribution:
        """Return the distribution of durations in nanoseconds. Negative durations count as 0."""
        # Without numpy, which is slower for few durations.
        durations = [max(duration, 0) for duration in durations_ns]
        counts = Counter([slot_of_us((duration + 500) // 1000) for duration in durations])
        slots = sorted(counts)
        return cls(
            count=len(durations),
            sum_ns=sum(durations),
            max_ns=max(durations, default=0),
            slots=np.array(slots, dtype=np.uint16),
            counts=np.array([counts[slot] for slot in slots], dtype=np.uint32),
        )

    @classmethod
    def totals(cls, count: int, sum_ns: int, max_ns: int) -> Distribution:
        """Return a distribution that has only count, sum and maximum."""
        return cls(count, sum_ns, max_ns, _NO_SLOTS, _NO_COUNTS)

    def without_slots(self) -> Distribution:
        """Return this distribution's count, sum and maximum, without its slots."""
        return Distribution.totals(self.count, self.sum_ns, self.max_ns)

    def percentiles_ns(self) -> Percentiles:
        """Return the percentiles by nearest rank, each as the longest duration of its slot.

        No percentile is above the maximum. Without samples, all percentiles are 0.
        """
        p50, p90, p95, p99 = self.at(MIN_SAMPLES) if self.count else (0, 0, 0, 0)
        return p50, p90, p95, p99

    def at(self, fractions: Iterable[float]) -> list[int]:
        """Return the percentiles that belong to `fractions`, which are from 0 to 1.

        They are computed like those of `percentiles_ns`, but there must be samples.
        """
        ranks = np.cumsum(self.counts, dtype=np.int64)
        wanted = [max(1, math.ceil(self.count * fraction)) for fraction in fractions]
        slots = self.slots.take(np.searchsorted(ranks, wanted)).tolist()
        return [min(slot_end_us(slot) * 1000, self.max_ns) for slot in slots]

    def median_interval_ns(self) -> tuple[int, int] | tuple[None, None]:
        """Return the 95 % interval of the median by order statistics. Below six samples, both ends are None.

        The interval assumes that the samples are independent. It reaches from the start of the slot of the
        sample of rank n / 2 - z sqrt(n) / 2, rounded down, to the end of the slot of the sample of rank n / 2
        + 1 + z sqrt(n) / 2, rounded up (Conover, Practical Nonparametric Statistics, 1999, section 3.2).
        """
        if self.count < _MIN_FOR_MEDIAN:
            return None, None
        reach = Z_95 * math.sqrt(self.count) / 2
        low = max(1, math.floor(self.count / 2 - reach))
        high = min(self.count, math.ceil(self.count / 2 + 1 + reach))
        ranks = np.cumsum(self.counts, dtype=np.int64)
        first, last = self.slots.take(np.searchsorted(ranks, [low, high])).tolist()
        return slot_start_us(first) * 1000, min(slot_end_us(last) * 1000, self.max_ns)

    def summary(self) -> Summary:
        """Return mean, percentiles and maximum, rounded to microseconds.

        Without slots, there are no percentiles.
        """
        percentiles_ns = self.percentiles_ns() if self.slots.size else [None] * len(MIN_SAMPLES)
        return summarise(self.count, self.sum_ns, self.max_ns, percentiles_ns)


def summarise(count: int, sum_ns: int, max_ns: int, percentiles_ns: Sequence[int | None]) -> Summary:
    """Return the summary of these figures.

    A percentile is left out if it is None, or if it needs more samples than there are.
    """
    if not count:
        return EMPTY_SUMMARY
    p50, p90, p95, p99 = (
        milliseconds(percentile_ns) if percentile_ns is not None and count >= needed else None
        for percentile_ns, needed in zip(percentiles_ns, MIN_SAMPLES.values(), strict=True)
    )
    return Summary(count, milliseconds(round(sum_ns / count)), p50, p90, p95, p99, milliseconds(max_ns))


class HistogramCodec:
    """Encodes distributions as compressed HDR histograms (V2, without base64), and decodes them.

    All calls reuse one array of counters, so an object is not thread-safe. The library's functions create an
    array per histogram, which takes three times as long, and a query over a month decodes ten thousand
    histograms.
    """

    def __init__(self) -> None:
        # base64 would add a third to every row
        self._histogram = HdrHistogram(
            1, HIGHEST_US, SIGNIFICANT_DIGITS, word_size=_COUNTER_BYTES, b64_wrap=False
        )
        # Break the reference cycle: otherwise the counters (140 kB) would wait for garbage collection.
        self._histogram.encoder.histogram = weakref.proxy(self._histogram)
        self._dense = np.frombuffer(self._histogram.counts, dtype=np.int64)
        self._address = ctypes.addressof(self._histogram.counts)
        self._header = self._histogram.encoder.payload.payload
        self._encoded = ctypes.create_string_buffer(
            payload_header_size + len(self._dense) * (_COUNTER_BYTES + 1)
        )
        self._shape = zlib.decompress(self._histogram.encode())[_SHAPE]

    def encode(self, distribution: Distribution) -> bytes:
        """Return a distribution's slots and counts in the format of HDR histogram tools."""
        slots = int(distribution.slots[-1]) + 1 if distribution.count else 0
        self._dense[distribution.slots] = distribution.counts
        buffer, room = ctypes.addressof(self._encoded), len(self._encoded)
        self._header.payload_len = pyhdrh.encode(
            self._address, slots, _COUNTER_BYTES, buffer + payload_header_size, room - payload_header_size
        )
        self._dense[distribution.slots] = 0
        ctypes.memmove(buffer, ctypes.addressof(self._header), payload_header_size)
        return zlib.compress(
            ctypes.string_at(buffer, payload_header_size + self._header.payload_len), level=1
        )

    def decode(self, encoded: bytes, count: int, sum_ns: int, max_ns: int) -> Distribution:
        """Return the distribution of an encoded histogram.

        Count, sum and maximum are parameters, because they are stored beside the histogram. Raises ValueError
        if the bytes are not a histogram, or if the histogram has other slots than those of this module.
        """
        try:
            data = zlib.decompress(encoded)
            if data[_SHAPE] != self._shape:
                raise ValueError("histogram: other slots")
            decoded_range = pyhdrh.decode(
                data, payload_header_size, self._address, len(self._dense), _COUNTER_BYTES
            )
        except Exception as error:  # zlib.error, and several types of the library's C code
            self._dense[:] = 0
            raise ValueError(f"not an HDR histogram ({len(encoded)} bytes)") from error
        if not decoded_range["total"]:
            return merge([])
        low, high = decoded_range["min_nonzero_index"], decoded_range["max_nonzero_index"]
        part = self._dense[low : high + 1]
        used = (part != 0).nonzero()[0]  # twice as fast on bool as on the counts
        slots = used.astype(np.uint16)
        slots += np.uint16(low)
        decoded = Distribution(count, sum_ns, max_ns, slots, _narrow(part[used], count))
        part[:] = 0
        return decoded


def merge(parts: Sequence[Distribution]) -> Distribution:
    """Return the distribution of the samples of all parts together.

    If a part has only totals, the result also has only totals.
    """
    parts = [part for part in parts if part.count]
    if len(parts) == 1:
        return parts[0]
    count = sum(part.count for part in parts)
    sum_ns = sum(part.sum_ns for part in parts)
    max_ns = max((part.max_ns for part in parts), default=0)
    if not parts or not all(part.slots.size for part in parts):
        return Distribution.totals(count, sum_ns, max_ns)
    # float64 sums are exact up to 2**53 samples; converting first halves the time of bincount
    first = min(int(part.slots[0]) for part in parts)
    dense = np.bincount(
        np.concatenate([part.slots for part in parts], dtype=np.intp) - first,
        weights=np.concatenate([part.counts for part in parts], dtype=np.float64),
    )
    used = (dense != 0).nonzero()[0]  # twice as fast on bool
    return Distribution(
        count=count,
        sum_ns=sum_ns,
        max_ns=max_ns,
        slots=(used + first).astype(np.uint16),
        counts=_narrow(dense[used], count),
    )


def _narrow(counts: NDArray[Any], count: int) -> NDArray[np.uint32] | NDArray[np.int64]:
    """Return `counts`, whose sum is `count`, in the smallest sufficient type."""
    return counts.astype(np.uint32) if count < 2**32 else counts.astype(np.int64)


def slot_start_us(slot: int) -> int:
    """Return the shortest duration of a slot in microseconds."""
    doublings = max((slot >> _HALF_BITS) - 1, 0)
    return (slot - (doublings << _HALF_BITS)) << doublings


def slot_end_us(slot: int) -> int:
    """Return the longest duration, in microseconds, that is counted in a slot."""
    return slot_start_us(slot + 1) - 1


def slot_of_us(microseconds: int) -> int:
    """Return the slot of a duration. All durations above HIGHEST_US are in the slot of HIGHEST_US."""
    microseconds = min(microseconds, HIGHEST_US)
    doublings = max(microseconds.bit_length() - _HALF_BITS - 1, 0)
    return (doublings << _HALF_BITS) + (microseconds >> doublings)
