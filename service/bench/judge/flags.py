"""The reasons to doubt a measurement that can be read off it."""

from __future__ import annotations

from collections.abc import Sequence

from service.bench.bundle import Bundle, Entry, Flag, GateReading, WarmUp
from service.bench.judge.stability import drift, drifted
from service.bench.judge.verdicts import compare_entries
from service.bench.measure.machine_watch import violations


def find_flags(bundle: Bundle) -> list[Flag]:
    """Flags for what happened beside the run, and for entries that did not stand still or differ from
    themselves."""
    flags = dirty(bundle.gates, judge_load=not bundle.configuration.http)
    flags += unstable(bundle.warm_ups, bundle.entries)
    flags += drifting(bundle)
    return flags + void(bundle)


def dirty(gates: Sequence[GateReading], *, judge_load: bool = True) -> list[Flag]:
    """Steal, outside load, throttling and clock jumps beyond what is tolerated."""
    return [Flag(kind="dirty", reason=reason) for reason in violations(gates, judge_load=judge_load)]


def unstable(warm_ups: Sequence[WarmUp], entries: Sequence[Entry]) -> list[Flag]:
    """Entries whose warm-up ended without three windows that agree."""
    flags = []
    for entry in entries:
        mine = [each for each in warm_ups if each.entry == entry.name]
        unsettled = sum(not each.stable for each in mine)
        if unsettled:
            reason = f"warm-up did not settle in {unsettled} of {len(mine)} launches"
            flags.append(Flag(kind="unstable", entry=entry.name, reason=reason))
    return flags


def drifting(bundle: Bundle) -> list[Flag]:
    """Entries whose last third differs from their first by more than 5 %."""
    flags = []
    for entry in bundle.entries:
        stage = bundle.stage_of(entry.name)
        samples = [
            duration / block.images
            for block in bundle.blocks_of(entry.name)
            for duration in block.durations_ns.get(stage, ())
        ]
        ratio = drift(samples)
        if ratio is not None and drifted(ratio):
            reason = f"the last third took {ratio - 1:+.1%} against the first (medians)"
            flags.append(Flag(kind="drift", entry=entry.name, reason=reason))
    return flags


def void(bundle: Bundle) -> list[Flag]:
    """The whole run, when the baseline differs from itself by the rule that judges the others."""
    controls = [entry.name for entry in bundle.entries if entry.control]
    return [
        Flag(
            kind="void",
            reason=f"{each.reference} measured twice differs from itself: "
            f"{each.ratio - 1:+.1%} ({each.low - 1:+.1%} to {each.high - 1:+.1%})",
        )
        for each in compare_entries(bundle, bundle.configuration.baseline, controls)
        if each.verdict != "indistinguishable"
    ]
