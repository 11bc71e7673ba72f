"""The results of a run as JSON and as Markdown."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from benchmarks.report import machine
from tests.soak.check import GROWTH, cause
from tests.soak.faults import KINDS
from tests.soak.record import Fault, Seen
from tests.soak.run import CLIENTS, SHARE, Result, percentile, seen_ms


def figures(result: Result) -> dict[str, Any]:
    """Return all figures of a run."""
    record, began = result.record, result.began
    quiet = [seen for seen in record.seen if not any(fault.overlaps(seen) for fault in record.faults)]
    return {
        "machine": machine(),
        "plan": asdict(result.plan),
        "capacity_per_s": round(result.capacity, 1),
        "rate_per_s": round(result.rate, 1),
        "seconds": round(result.ended - began, 1),
        "answers": len(record.seen),
        "not_sent": record.not_sent,
        "by_route": _by_route(record.seen),
        "ms_by_route": _times(record.seen),
        "errors": _errors(result, record.seen),
        "without_fault": _latencies(quiet),
        "faults": [_fault(result, kind) for kind in KINDS],
        "timeline": [
            {
                "kind": fault.kind,
                "what": fault.what,
                "at_s": round(fault.began - began, 1),
                "seconds": round(fault.ended - fault.began, 1),
                "recovered_after_s": round(fault.recovered - fault.ended, 1),
            }
            for fault in record.faults
        ],
        "resident_mb": {
            "baseline": round(result.resident[0] / 1e6, 1),
            "end": round(result.resident[1] / 1e6, 1),
            "every_minute": [round(sum(sample.values()) / 1e6, 1) for _, sample in record.resident[::60]],
        },
        "threads_at_start": result.threads,
        "held_before": dict(sorted(result.before.items())),
        "held_after": dict(sorted(result.after.items())),
        "stored": result.stored,
        "latency_counts": result.counts,
        "answered_predictions": dict(result.ledger.predictions),
        "violations": result.violations,
    }


def _by_route(seen: list[Seen]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for each in seen:
        counts.setdefault(each.route, Counter())[str(each.status)] += 1
    return {route: dict(sorted(by_status.items())) for route, by_status in sorted(counts.items())}


def _times(seen: list[Seen]) -> dict[str, dict[str, float]]:
    """Return the median and the maximum duration of each route's successes, in milliseconds."""
    times: dict[str, list[float]] = {}
    for each in seen:
        if 200 <= each.status < 300:
            times.setdefault(each.route, []).append(each.ms)
    return {
        route: {"p50_ms": round(percentile(all_, 50), 1), "max_ms": round(max(all_), 1)}
        for route, all_ in sorted(times.items())
    }


def _errors(result: Result, seen: list[Seen]) -> dict[str, int]:
    """Count the errors that no request asked for, by status, problem and cause."""
    counts = Counter(
        f"{each.status} {each.problem}: {cause(each, result.record.faults) or 'without a cause'}"
        for each in seen
        if not each.expected
    )
    return dict(counts.most_common())


def _latencies(seen: list[Seen]) -> dict[str, float]:
    times = seen_ms(seen)
    return {"p50_ms": round(percentile(times, 50), 1), "p99_ms": round(percentile(times, 99), 1)}


def _fault(result: Result, kind: str) -> dict[str, Any]:
    """Return what happened during all faults of a kind."""
    faults: list[Fault] = result.record.during([kind])
    seen = [each for each in result.record.seen if any(fault.overlaps(each) for fault in faults)]
    refused = Counter(f"{each.status} `{each.problem}`" for each in seen if not each.expected)
    predictions = [
        each for each in seen if each.route in ("POST /classify", "POST /detect") and each.expected
    ]
    return {
        "kind": kind,
        "times": len(faults),
        "what": [fault.what for fault in faults],
        "answers": len(seen),
        "predictions": len(predictions),
        "errors": dict(refused.most_common()),
        "errors_by_route": dict(
            sorted(
                Counter(
                    f"{each.route}: {each.status} {each.problem}" for each in seen if not each.expected
                ).items()
            )
        ),
        "recovered_after_s": round(max((each.recovered - each.ended for each in faults), default=0.0), 1),
        **_latencies(seen),
    }


def markdown(data: dict[str, Any]) -> str:
    """Return the figures as tables for the documentation."""
    memory, plan = data["resident_mb"], data["plan"]
    growth = 100 * (memory["end"] / memory["baseline"] - 1) if memory["baseline"] else 0.0
    lines = [
        f"{plan['minutes']:g} minutes, {plan['replicas']} replicas, seed {plan['seed']}:",
        "",
        "| what | figure |",
        "| --- | --- |",
        f"| capacity with {CLIENTS} clients in a closed loop | {data['capacity_per_s']} operations/s |",
        f"| rate: {SHARE:.0%} of that, at random times | {data['rate_per_s']} operations/s |",
        f"| answers | {data['answers']} |",
        f"| errors, without those expected for bad input | {sum(data['errors'].values())} |",
        f"| violations | {len(data['violations'])} |",
        f"| resident memory, baseline | {memory['baseline']} MB |",
        f"| resident memory, last minute | {memory['end']} MB ({growth:+.1f} %; allowed: {GROWTH:+.0%}) |",
        f"| `/classify` without a fault, p50 and p99 | {data['without_fault']['p50_ms']} ms, "
        f"{data['without_fault']['p99_ms']} ms |",
        "",
        "| fault | times | answers meanwhile | of these, predictions | errors | p50, p99 of `/classify` "
        "| longest time from the end of the fault until no replica reported `degraded` |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for fault in data["faults"]:
        errors = ", ".join(f"{count} × {what}" for what, count in fault["errors"].items()) or "none"
        lines.append(
            f"| {fault['kind']} | {fault['times']} | {fault['answers']} | {fault['predictions']} | {errors} "
            f"| {fault['p50_ms']} ms, {fault['p99_ms']} ms | {fault['recovered_after_s']} s |"
        )
    lines += ["", "| held by the services | before | after |", "| --- | --- | --- |"]
    for kind in sorted({*data["held_before"], *data["held_after"]}):
        lines.append(f"| {kind} | {data['held_before'].get(kind, 0)} | {data['held_after'].get(kind, 0)} |")
    lines += ["", *(f"- VIOLATION: {each}" for each in data["violations"])]
    return "\n".join(lines).rstrip() + "\n"
