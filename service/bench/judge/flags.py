"""Flags of a benchmark: reasons to doubt it."""

from __future__ import annotations

from collections.abc import Sequence

from service.bench.bundle import Bundle, Entry, Flag, GateReading, WarmUp
from service.bench.judge.stability import drift, drifted
from service.bench.judge.verdicts import compare_entries
from service.bench.measure.machine_watch import violations


def find_flags(bundle: Bundle) -> list[Flag]:
    """Return the flags that follow from the measurements: `dirty`, `unstable`, `drift` and `void`."""
    flags = dirty(bundle.gates, judge_load=not bundle.configuration.http)
    flags += unstable(bundle.warm_ups, bundle.entries)
    flags += drifting(bundle)
    return flags + void(bundle)


def dirty(gates: Sequence[GateReading], *, judge_load: bool = True) -> list[Flag]:
    """Return a flag for each disturbance of the machine that is over its limit.

    Disturbances are time that the hypervisor took, load of other processes, throttling and clock jumps. The
    load counts only with `judge_load`.
    """
    return [Flag(kind="dirty", reason=reason) for reason in violations(gates, judge_load=judge_load)]


def unstable(warm_ups: Sequence[WarmUp], entries: Sequence[Entry]) -> list[Flag]:
    """Return a flag for each entry that had a warm-up which ended before three windows in a row agreed."""
    flags = []
    for entry in entries:
        of_entry = [warm_up for warm_up in warm_ups if warm_up.entry == entry.name]
        unsettled = sum(not warm_up.stable for warm_up in of_entry)
        if unsettled:
            reason = f"warm-up did not settle in {unsettled} of {len(of_entry)} launches"
            flags.append(Flag(kind="unstable", entry=entry.name, reason=reason))
    return flags


def drifting(bundle: Bundle) -> list[Flag]:
    """Return a flag for each entry that became slower or faster during the benchmark.

    The median of the last third of its runs then differs by more than 5 % from that of the first third.
    """
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
    """Return a flag for the whole benchmark if the verdict finds the baseline different from its control."""
    controls = [entry.name for entry in bundle.entries if entry.control]
    flags = []
    for comparison in compare_entries(bundle, bundle.configuration.baseline, controls):
        if comparison.verdict == "indistinguishable":
            continue
        assert comparison.low is not None
        assert comparison.high is not None
        reason = (
            f"{comparison.reference} measured twice differs from itself: "
            f"{comparison.ratio - 1:+.1%} ({comparison.low - 1:+.1%} to {comparison.high - 1:+.1%})"
        )
        flags.append(Flag(kind="void", reason=reason))
    return flags
