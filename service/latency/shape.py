"""Percentile curve and coarse histogram of a distribution, for charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.zoo.statistics import MIN_SAMPLES, samples_needed
from service.latency.histogram import Distribution, slot_end_us, slot_of_us, slot_start_us
from service.latency.stages import milliseconds

MOST_BINS = 60
_POINTS_PER_DECADE = 8
_DECADES = 5


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of a histogram: the number of durations from `from_ms` to below `to_ms`."""

    from_ms: float
    to_ms: float
    count: int


def fractions() -> list[float]:
    """Return, ascending, the percentiles that a curve shows, as fractions of 1.

    They are evenly spaced on a log scale of 1 / (1 - fraction). The percentiles that summaries state (the
    keys of MIN_SAMPLES) are added.
    """
    spaced = (1 - 10 ** (-step / _POINTS_PER_DECADE) for step in range(_POINTS_PER_DECADE * _DECADES + 1))
    return sorted({*(round(fraction, 9) for fraction in spaced), *MIN_SAMPLES})


def curve(distribution: Distribution) -> list[tuple[float, float]]:
    """Return points (fraction, milliseconds), one for each percentile that the sample size supports.

    The fractions are ascending.
    """
    if not distribution.count:
        return []
    supported = [fraction for fraction in fractions() if distribution.count >= samples_needed(fraction)]
    return list(zip(supported, map(milliseconds, distribution.at(supported)), strict=True))


def histogram(distribution: Distribution, most: int = MOST_BINS) -> Sequence[Bin]:
    """Return at most `most` adjacent bins, about evenly spaced on a log scale.

    Each edge of a bin is the edge of an HDR slot, so the counts are exact. The first bin may begin at 0.
    """
    if not distribution.count:
        return []
    first, last = int(distribution.slots[0]), int(distribution.slots[-1])
    start_us, end_us = max(1, slot_start_us(first)), slot_end_us(last) + 1
    between = (slot_of_us(int(edge)) for edge in np.geomspace(start_us, end_us, most + 1)[1:-1])
    edges = sorted({first, last + 1, *(edge for edge in between if first < edge <= last)})
    below = np.concatenate([[0], np.cumsum(distribution.counts, dtype=np.int64)])
    positions = below[np.searchsorted(distribution.slots, edges)]
    return [
        Bin(slot_start_us(low) / 1000, slot_start_us(high) / 1000, int(count))
        for low, high, count in zip(edges, edges[1:], np.diff(positions), strict=False)
    ]
