"""The Pareto front over accuracy, latency and bytes: out is only what is surely worse, not what looks so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.bench.judge.verdicts import compare_entries
from service.bench.recommend.accuracy import Claim
from service.bench.recommend.evidence import Kept, Measured


@dataclass(frozen=True)
class Dominated:
    """A model that another beats in everything, and the figures that say so."""

    model: str
    by: str
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A model that was measured, and what may be claimed of its accuracy."""

    measured: Measured
    claim: Claim | None


def front(models: Sequence[Candidate]) -> tuple[list[Candidate], list[Dominated]]:
    """The models that no other surely beats, and the rest with what beats them.

    One beats another when it is not larger, its accuracy's interval lies above the other's, and it is
    faster: by the paired comparison of rounds where both were measured together, else when the 95 % intervals
    of their medians are apart. A model whose accuracy is not known neither beats nor is beaten.
    """
    on_front, dominated = [], []
    for mine in models:
        by = next((found for theirs in models if (found := _dominated(mine, theirs)) is not None), None)
        if by is None:
            on_front.append(mine)
        else:
            dominated.append(by)
    return on_front, dominated


def _dominated(me: Candidate, them: Candidate) -> Dominated | None:
    mine, my_claim, theirs, their_claim = me.measured, me.claim, them.measured, them.claim
    if my_claim is None or their_claim is None or mine.name == theirs.name:
        return None
    if theirs.facts.bytes > mine.facts.bytes or their_claim.low < my_claim.high:
        return None
    faster = _faster(theirs, mine)
    if faster is None:
        return None
    return Dominated(
        mine.name,
        theirs.name,
        f"'{theirs.name}' is more accurate ({their_claim.value:.1%} against {my_claim.value:.1%}), {faster}, "
        f"and not larger ({theirs.facts.bytes / 1e6:.3g} MB against {mine.facts.bytes / 1e6:.3g} MB)",
    )


def _faster(one: Measured, other: Measured) -> str | None:
    """How much faster `one` is than `other`, in words; None unless it surely is."""
    if one.kept is other.kept:
        return _paired(one.kept, one.entry.name, other.entry.name)
    (_, high), (low, _) = one.median_interval_ns, other.median_interval_ns
    if high >= low:
        return None
    return f"faster (median at most {high / 1e6:.3g} ms against at least {low / 1e6:.3g} ms)"


def _paired(kept: Kept, one: str, other: str) -> str | None:
    pair = (one, other)
    if pair not in kept.compared:
        (comparison,) = compare_entries(kept.bundle, other, [one]) or (None,)
        words = None
        if comparison is not None and comparison.verdict == "faster":
            estimate, low, high = comparison.speedup
            words = f"{estimate:.2f} times as fast ({low:.2f} to {high:.2f})"
        kept.compared[pair] = words
    return kept.compared[pair]
