"""Summarise each entry of a bundle, and choose the samples that the latency recorder gets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from models.zoo.statistics import PercentileBound, percentile_bound
from service.bench.bundle import BenchStage, Bundle, Entry, Flag, ModelFacts, RateTrial
from service.bench.judge.verdicts import Comparison, compare_entries
from service.latency.stages import STAGES, Durations, Regime


@dataclass(frozen=True)
class EntrySummary:
    """An object has the figures of one entry.

    Latencies are those of `stage`, from `count` runs of one image. A percentile is None if there are too few
    runs for it. In the offline scenario there are no latencies, only `images_per_s`. In the server scenario,
    each launch has a highest rate within the budget, or 0 if it has none; `rate_per_s` is the median of
    these. `comparison` compares the entry with the baseline.
    """

    entry: Entry
    model: ModelFacts
    stage: BenchStage
    count: int
    p50_ns: float | None
    p90: PercentileBound | None
    p95: PercentileBound | None
    p99: PercentileBound | None
    stages_p50_ns: dict[BenchStage, float]
    images_per_s: float | None
    rate_per_s: float | None
    peak_memory_bytes: int | None
    model_memory_bytes: int | None
    load_ns: float | None
    first_run_ns: float | None
    gmacs_per_s: float | None
    comparison: Comparison | None
    flags: tuple[Flag, ...]


def summarise(bundle: Bundle) -> list[EntrySummary]:
    """Summarise every entry, including controls, in the bundle's order."""
    comparisons = compare_entries(bundle, bundle.configuration.baseline)
    by_entry = {comparison.entry: comparison for comparison in comparisons}
    return [_summarise(bundle, entry, by_entry.get(entry.name)) for entry in bundle.entries]


def kept_rate(trials: Iterable[RateTrial], budget_ms: float) -> float:
    """Return the median over launches of each launch's highest rate within the budget.

    `keeps_budget` decides whether a rate is within the budget. A launch without such a rate counts as 0.
    """
    best: dict[int, float] = {}
    for trial in trials:
        best.setdefault(trial.launch, 0.0)
        if keeps_budget(trial.latencies_ns, trial.abandoned, budget_ms):
            best[trial.launch] = max(best[trial.launch], trial.rate_per_s)
    return statistics.median(best.values()) if best else 0.0


def keeps_budget(latencies_ns: Sequence[int], abandoned: int, budget_ms: float) -> bool:
    """Return whether every query was answered and the p99 is surely within the budget.

    The p99 is surely within the budget if its upper bound, which holds with 99 % confidence, is within it.
    """
    bound = percentile_bound(latencies_ns, 0.99)
    return not abandoned and bound is not None and bound.bound_ns <= budget_ms * 1e6


def recorder_samples(bundle: Bundle) -> Iterator[tuple[str, Regime, Durations]]:
    """Yield model, regime and durations of every run that is comparable with the service's own latencies.

    These are runs of one thread in ONNX Runtime, called directly. Single-stream runs get the regime
    `isolated`. Of the server scenario, only the runs at the highest rate within the budget are used; they get
    the regime `load`. Controls are left out, because they would count the baseline twice. Offline blocks are
    left out, because they have no latency per image.
    """
    chosen = {entry.name: entry for entry in bundle.entries if is_like_the_service(entry)}
    if bundle.configuration.scenario == "single-stream":
        for block in bundle.blocks:
            entry = chosen.get(block.entry)
            if entry is None:
                continue
            stages = [stage for stage in STAGES if stage in block.durations_ns]
            for durations in zip(*(block.durations_ns[stage] for stage in stages), strict=True):
                yield entry.model, "isolated", dict(zip(stages, durations, strict=True))
    budget = bundle.configuration.budget_ms
    for name, entry in chosen.items():
        trials = [trial for trial in bundle.trials if trial.entry == name]
        kept = [t for t in trials if budget and keeps_budget(t.latencies_ns, t.abandoned, budget)]
        if kept:
            best = max(kept, key=lambda trial: trial.rate_per_s)
            for total, inference in zip(best.latencies_ns, best.inference_ns, strict=True):
                yield entry.model, "load", {"inference": inference, "total": total}


def _summarise(bundle: Bundle, entry: Entry, comparison: Comparison | None) -> EntrySummary:
    model, stage = bundle.model_of(entry), bundle.stage_of(entry.name)
    blocks = bundle.blocks_of(entry.name)
    offline = bundle.configuration.scenario == "offline"
    samples = () if offline else bundle.samples(entry.name)
    p50 = float(np.median(samples)) if samples else None
    throughput = None
    if blocks and offline:
        totals = [(block.images, sum(block.durations_ns[stage])) for block in blocks]
        throughput = sum(images for images, _ in totals) / (sum(ns for _, ns in totals) / 1e9)
    elif p50:
        throughput = 1e9 / float(np.mean(samples))
    trials = [trial for trial in bundle.trials if trial.entry == entry.name]
    budget = bundle.configuration.budget_ms
    cold = [start for start in bundle.cold if start.entry == entry.name]
    memory = next((memory for memory in bundle.memory if memory.entry == entry.name), None)
    return EntrySummary(
        entry=entry,
        model=model,
        stage=stage,
        count=len(samples),
        p50_ns=p50,
        p90=percentile_bound(samples, 0.90),
        p95=percentile_bound(samples, 0.95),
        p99=percentile_bound(samples, 0.99),
        stages_p50_ns={
            stage: float(np.median(bundle.samples(entry.name, stage)))
            for stage in _stages(bundle, entry.name)
        },
        images_per_s=throughput,
        rate_per_s=kept_rate(trials, budget) if trials and budget else None,
        peak_memory_bytes=memory.peak_bytes if memory else None,
        model_memory_bytes=memory.peak_bytes - memory.before_bytes if memory else None,
        load_ns=statistics.median(start.load_ns for start in cold) if cold else None,
        first_run_ns=statistics.median(start.first_run_ns for start in cold) if cold else None,
        gmacs_per_s=_gmacs(bundle, model, p50, throughput),
        comparison=comparison,
        flags=tuple(flag for flag in bundle.flags if flag.entry in (None, entry.name)),
    )


def _gmacs(bundle: Bundle, model: ModelFacts, p50_ns: float | None, throughput: float | None) -> float | None:
    """Return the entry's rate in units of 10^9 multiply-accumulates per second.

    In the offline scenario, this is the rate of all threads together. In other scenarios, it follows from the
    median time of one run. Return None if the entry has no runs.
    """
    if bundle.configuration.scenario == "offline":
        return None if throughput is None else model.macs * throughput / 1e9
    return model.macs / p50_ns if p50_ns else None


def _stages(bundle: Bundle, entry: str) -> list[BenchStage]:
    blocks = bundle.blocks_of(entry)
    return list(blocks[0].durations_ns) if blocks else []


def is_like_the_service(entry: Entry) -> bool:
    """Return whether an entry runs as the service runs models by default, and is not a control.

    The service calls the model directly, in ONNX Runtime, on one thread.
    """
    return (
        entry.via == "session" and entry.runtime == "onnxruntime" and entry.threads == 1 and not entry.control
    )
