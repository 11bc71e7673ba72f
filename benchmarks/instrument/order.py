"""Two standard runs of the same models: do they order every pair alike that either calls distinguishable?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from benchmarks.results import Results
from models.zoo.verdicts import Verdict
from service.bench.bundle import Bundle
from service.bench.judge.verdicts import compare_entries
from service.bench.measure.plan import Request, make_plan
from service.bench.measure.runner import Runner
from service.inference.registry import Registry


def record_run(results: Results, registry: Registry, names: Sequence[str] | None) -> None:
    """One standard run, kept as what it says of every pair, and of every model's p50."""
    plan = make_plan(registry, Request(models=None if names is None else tuple(names), profile="standard"))
    bundle = Runner(plan).run()
    results.append(
        "standard-run",
        seconds=(bundle.finished_at - bundle.started_at).total_seconds(),
        flags=[flag.model_dump() for flag in bundle.flags],
        verdicts=every_pair(bundle),
        p50_ns={
            entry.name: sorted(samples)[len(samples) // 2]
            for entry in bundle.entries
            if (samples := bundle.samples(entry.name))
        },
    )


def every_pair(bundle: Bundle) -> dict[str, Verdict]:
    """`a b` to the verdict on a against b, adjusted within the comparisons with b."""
    names = [entry.name for entry in bundle.entries if not entry.control]
    verdicts: dict[str, Verdict] = {}
    for reference in names:
        for found in compare_entries(bundle, reference, [name for name in names if name != reference]):
            verdicts[f"{found.entry} {reference}"] = found.verdict
    return {f"{a} {b}": verdicts[f"{a} {b}"] for a, b in combinations(names, 2)}


def disagreements(one: dict[str, Verdict], other: dict[str, Verdict]) -> tuple[list[str], int]:
    """Pairs that one of the runs calls distinguishable and the other does not order alike, and how many
    pairs either calls distinguishable."""
    pairs = [
        pair
        for pair in one.keys() & other.keys()
        if "indistinguishable" not in (one[pair], other[pair]) or one[pair] != other[pair]
    ]
    return sorted(pair for pair in pairs if one[pair] != other[pair]), len(pairs)
