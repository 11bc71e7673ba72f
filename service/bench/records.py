"""A bundle's samples as the service's recorder takes them, so that `/latency` shows measured regimes too."""

from __future__ import annotations

from collections.abc import Iterator

from service.bench.bundle import Bundle, Entry
from service.bench.judge.summary import keeps_budget
from service.latency.stages import STAGES, Durations, Regime


def records(bundle: Bundle) -> Iterator[tuple[str, Regime, Durations]]:
    """Model, regime and durations of every run that is comparable with what the service itself records.

    Those are runs of one thread in ONNX Runtime, called directly: single-stream ones as `isolated`, and of
    a server run those at the highest rate that kept the budget as `load`. The control is the baseline over
    again and would count it twice. Offline blocks say nothing of single images.
    """
    chosen = {entry.name: entry for entry in bundle.entries if _is_like_the_service(entry)}
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
        kept = [
            trial for trial in bundle.trials if trial.entry == name and budget and keeps_budget(trial, budget)
        ]
        if kept:
            best = max(kept, key=lambda trial: trial.rate_per_s)
            for total, inference in zip(best.latencies_ns, best.inference_ns, strict=True):
                yield entry.model, "load", {"inference": inference, "total": total}


def _is_like_the_service(entry: Entry) -> bool:
    return (
        entry.via == "session" and entry.runtime == "onnxruntime" and entry.threads == 1 and not entry.control
    )
