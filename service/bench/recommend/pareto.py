"""Pareto front over accuracy, latency and file size.

A model is dominated only if another one is significantly more accurate, significantly faster, and not larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from service.bench.judge.verdicts import compare_entries
from service.bench.recommend.accuracy import AccuracyEstimate
from service.bench.recommend.evidence import Measured, StoredBundle


@dataclass(frozen=True)
class Dominated:
    """A model that the model `by` dominates, and the reason with the figures."""

    model: str
    by: str
    reason: str


class Contender(Protocol):
    """A model that `front` compares, measured in a benchmark or in live traffic."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def bytes(self) -> int:
        """Size of the model's file."""

    @property
    def accuracy(self) -> AccuracyEstimate | None:
        """The model's accuracy, or None if it is unknown."""

    def faster_than(self, other: Self) -> str | None:
        """Return in words how much faster this model is than `other`.

        Return None if it is not significantly faster.
        """


C = TypeVar("C", bound=Contender)


@dataclass(frozen=True)
class Candidate:
    """A measured model and its accuracy."""

    measured: Measured
    accuracy: AccuracyEstimate | None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.measured.name

    @property
    def bytes(self) -> int:
        """Size of the model's file."""
        return self.measured.facts.bytes

    def faster_than(self, other: Candidate) -> str | None:
        """Return in words how much faster this model is than `other`.

        Return None if it is not significantly faster.
        """
        return faster_words(self.measured, other.measured)


def front(models: Sequence[C]) -> tuple[list[C], list[Dominated]]:
    """Return the models on the Pareto front, and the dominated ones with the reasons.

    A model dominates another if it is not larger, the interval of its accuracy is above the other's, and it
    is faster. If one benchmark measured both, the paired comparison of rounds decides whether it is faster.
    Otherwise, it is faster if its 95 % interval of the median lies below the other's, without overlap. No p
    value is corrected for the number of pairs, because with many pairs no corrected p could be below LEVEL:
    15 models form 105 pairs, so Holm's correction would multiply the smallest p by 105, and RESAMPLES limits
    how small p can be. A model of unknown accuracy neither dominates nor is dominated.
    """
    on_front, dominated = [], []
    for mine in models:
        reasons = (_dominated(mine, theirs) for theirs in models)
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is None:
            on_front.append(mine)
        else:
            dominated.append(reason)
    return on_front, dominated


def _dominated(mine: C, theirs: C) -> Dominated | None:
    if mine.accuracy is None or theirs.accuracy is None or mine.name == theirs.name:
        return None
    if theirs.bytes > mine.bytes or theirs.accuracy.low < mine.accuracy.high:
        return None
    faster = theirs.faster_than(mine)
    if faster is None:
        return None
    return Dominated(
        mine.name,
        theirs.name,
        f"'{theirs.name}' is more accurate ({theirs.accuracy.value:.1%} against {mine.accuracy.value:.1%}), "
        f"{faster}, and not larger ({theirs.bytes / 1e6:.3g} MB against {mine.bytes / 1e6:.3g} MB)",
    )


def faster_words(one: Measured, other: Measured) -> str | None:
    """Return in words how much faster `one` is than `other`, or None if it is not significantly faster."""
    if one.stored is other.stored:
        return _paired(one.stored, one.entry.name, other.entry.name)
    return faster_by_intervals(one.median_interval_ns, other.median_interval_ns)


def faster_by_intervals(
    one: tuple[float, float] | tuple[None, None], other: tuple[float, float] | tuple[None, None]
) -> str | None:
    """Return in words how much faster one model is than another, by the intervals of their medians in ns.

    Return None unless both intervals are known and all of `one` lies below `other`.
    """
    (_, high), (low, _) = one, other
    if high is None or low is None or high >= low:
        return None
    return f"faster (median at most {high / 1e6:.3g} ms against at least {low / 1e6:.3g} ms)"


def _paired(stored: StoredBundle, one: str, other: str) -> str | None:
    pair = (one, other)
    if pair not in stored.compared:
        (comparison,) = compare_entries(stored.bundle, other, [one]) or (None,)
        words = None
        if comparison is not None and comparison.verdict == "faster":
            words = "{:.2f} times as fast ({:.2f} to {:.2f})".format(*comparison.speedup)
        stored.compared[pair] = words
    return stored.compared[pair]
