"""The shape of a distribution: its percentile curve, and a histogram of few bins."""

from __future__ import annotations

import math
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
    """How many durations lie from `from_ms` to before `to_ms`."""

    from_ms: float
    to_ms: float
    count: int


def fractions() -> list[float]:
    """Of which percentiles a curve consists: evenly spaced in 1/(1 - fraction), and those that are told
    everywhere else."""
    spaced = (1 - 10 ** (-step / _POINTS_PER_DECADE) for step in range(_POINTS_PER_DECADE * _DECADES + 1))
    return sorted({*(round(each, 9) for each in spaced), *MIN_SAMPLES})


def curve(distribution: Distribution) -> list[tuple[float, float]]:
    """(fraction, milliseconds) of every percentile that so many samples can carry, rising in both."""
    carried = [each for each in fractions() if distribution.count >= samples_needed(each)]
    if not distribution.count:
        return []
    ranks = np.cumsum(distribution.counts, dtype=np.int64)
    wanted = [max(1, math.ceil(distribution.count * fraction)) for fraction in carried]
    slots = distribution.slots.take(np.searchsorted(ranks, wanted)).tolist()
    return [
        (fraction, milliseconds(min(slot_end_us(slot) * 1000, distribution.max_ns)))
        for fraction, slot in zip(carried, slots, strict=True)
    ]


def histogram(distribution: Distribution, most: int = MOST_BINS) -> Sequence[Bin]:
    """At most so many bins that follow each other without a gap, about evenly spaced in the logarithm.

    Their edges are those of the distribution's own slots, so that each count is exact. The first bin may
    begin at 0.
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
