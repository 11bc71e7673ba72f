"""Test whether two standard benchmarks of the same models give every distinguishable pair the same order."""

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
    """Record one standard benchmark: the verdict on every pair of models, and the p50 of every model."""
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
    """Return the verdict on each pair of models, by the text "a b".

    In the comparison of a with b, model b is the baseline. p values are adjusted for the number of
    comparisons with the same baseline.
    """
    names = [entry.name for entry in bundle.entries if not entry.control]
    verdicts: dict[str, Verdict] = {}
    for reference in names:
        others = [name for name in names if name != reference]
        for comparison in compare_entries(bundle, reference, others):
            verdicts[f"{comparison.entry} {reference}"] = comparison.verdict
    return {f"{a} {b}": verdicts[f"{a} {b}"] for a, b in combinations(names, 2)}


def disagreements(first: dict[str, Verdict], second: dict[str, Verdict]) -> tuple[list[str], int]:
    """Return the pairs whose verdict differs between two benchmarks, and the number of distinguishable pairs.

    A pair is distinguishable if at least one of the two benchmarks distinguishes its models.
    """
    pairs = [
        pair
        for pair in first.keys() & second.keys()
        if "indistinguishable" not in (first[pair], second[pair]) or first[pair] != second[pair]
    ]
    return sorted(pair for pair in pairs if first[pair] != second[pair]), len(pairs)
