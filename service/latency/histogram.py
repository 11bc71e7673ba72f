"""Distributions of durations as sparse HDR histograms: made, merged, summarised, encoded and decoded."""

from __future__ import annotations

import ctypes
import math
import weakref
import zlib
from collections import Counter
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
"""Longest duration with a slot of its own (67.1 s); longer ones count as this, their maximum stays exact."""

SIGNIFICANT_DIGITS = 3
_COUNTER_BYTES = 8
_HALF_BITS = 10
"""Each power of two has 2**10 slots, so that three digits are significant."""

_SHAPE = slice(8, payload_header_size)  # of the header: after its magic number and its length


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean, percentiles and maximum in milliseconds; None where there are too few samples."""

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

    @classmethod
    def of(cls, durations_ns: Sequence[int]) -> Distribution:
        """The distribution of these durations in nanoseconds; a negative one counts as 0."""
        # Not with numpy: most often these are a few.
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
    """The summary of a distribution with these figures, without percentiles that need more samples."""
    if not count:
        return EMPTY_SUMMARY
    p50, p90, p95, p99 = (
        milliseconds(each) if count >= needed else None
        for each, needed in zip(percentiles_ns, MIN_SAMPLES.values(), strict=True)
    )
    return Summary(count, milliseconds(round(sum_ns / count)), p50, p90, p95, p99, milliseconds(max_ns))


class HistogramCodec:
    """Encodes distributions as compressed HDR histograms (V2, without base64), and decodes them.

    One set of counters serves any number of them: a fresh one each, as the library's own functions take,
    costs three times as much, and an answer about a month decodes ten thousand. Not thread-safe.
    """

    def __init__(self) -> None:
        # base64 would add a third to every row
        self._histogram = HdrHistogram(
            1, HIGHEST_US, SIGNIFICANT_DIGITS, word_size=_COUNTER_BYTES, b64_wrap=False
        )
        # The two refer to each other: without this the counters (140 kB) would wait for garbage collection.
        self._histogram.encoder.histogram = weakref.proxy(self._histogram)
        self._dense = np.frombuffer(self._histogram.counts, dtype=np.int64)
        self._address = ctypes.addressof(self._histogram.counts)
        self._header = self._histogram.encoder.payload.payload
        self._encoded = ctypes.create_string_buffer(
            payload_header_size + len(self._dense) * (_COUNTER_BYTES + 1)
        )
        self._shape = zlib.decompress(self._histogram.encode())[_SHAPE]

    def encode(self, distribution: Distribution) -> bytes:
        """The distribution's slots and counts, for any HDR tool to read."""
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
        """The distribution; count, sum and maximum are kept beside the histogram.

        Raises ValueError for bytes that are no histogram, or one with other slots.
        """
        try:
            data = zlib.decompress(encoded)
            if data[_SHAPE] != self._shape:
                raise ValueError("the histogram has other slots")
            found = pyhdrh.decode(data, payload_header_size, self._address, len(self._dense), _COUNTER_BYTES)
        except Exception as error:  # zlib's own, and several that the library's C code raises
            self._dense[:] = 0
            raise ValueError(f"no HDR histogram in these {len(encoded)} bytes") from error
        if not found["total"]:
            return merge([])
        low, high = found["min_nonzero_index"], found["max_nonzero_index"]
        part = self._dense[low : high + 1]
        used = (part != 0).nonzero()[0]  # of bool: twice as fast as of the counts
        slots = used.astype(np.uint16)
        slots += np.uint16(low)
        decoded = Distribution(count, sum_ns, max_ns, slots, _narrow(part[used], count))
        part[:] = 0
        return decoded


def merge(parts: Sequence[Distribution]) -> Distribution:
    """The distribution of all samples together."""
    parts = [part for part in parts if part.count]
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Distribution(0, 0, 0, np.empty(0, np.uint16), np.empty(0, np.uint32))
    # float64 sums are exact up to 2**53 samples; bincount's own conversions would take twice as long
    first = min(int(part.slots[0]) for part in parts)
    dense = np.bincount(
        np.concatenate([part.slots for part in parts], dtype=np.intp) - first,
        weights=np.concatenate([part.counts for part in parts], dtype=np.float64),
    )
    used = (dense != 0).nonzero()[0]  # of bool: twice as fast
    count = sum(part.count for part in parts)
    return Distribution(
        count=count,
        sum_ns=sum(part.sum_ns for part in parts),
        max_ns=max(part.max_ns for part in parts),
        slots=(used + first).astype(np.uint16),
        counts=_narrow(dense[used], count),
    )


def _narrow(counts: NDArray[Any], count: int) -> NDArray[np.uint32] | NDArray[np.int64]:
    """Slots' shares of `count` samples, in the smaller type that holds them."""
    return counts.astype(np.uint32) if count < 2**32 else counts.astype(np.int64)


def slot_start_us(slot: int) -> int:
    """The shortest duration in a slot, microseconds."""
    doublings = max((slot >> _HALF_BITS) - 1, 0)
    return (slot - (doublings << _HALF_BITS)) << doublings


def slot_end_us(slot: int) -> int:
    """The longest duration in a slot, microseconds."""
    return slot_start_us(slot + 1) - 1


def slot_of_us(microseconds: int) -> int:
    """The slot of a duration; of HIGHEST_US for longer ones."""
    microseconds = min(microseconds, HIGHEST_US)
    doublings = max(microseconds.bit_length() - _HALF_BITS - 1, 0)
    return (doublings << _HALF_BITS) + (microseconds >> doublings)
