"""What the benchmark page shows, worked out before the template sees it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from models.zoo.statistics import PercentileBound
from service.bench.jobs import Benchmark
from service.bench.judge.regression import Regression
from service.bench.judge.summary import EntrySummary
from service.web.site import explained
from service.web.table import milliseconds_text


@dataclass(frozen=True, slots=True)
class Run:
    """A line of the list. `what`: profile, scenario and models; `detail`: why it ended as it did."""

    id: str
    when: str
    state: str
    what: str
    detail: str
    measured: bool


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One entry of a measurement. Percentiles with their bounds, empty where too few runs carry one."""

    entry: str
    count: int
    p50: str
    p90: str
    p99: str
    throughput: str
    memory: str
    speedup: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Results:
    """What one run measured, and reasons to doubt it."""

    id: str
    rows: Sequence[ResultRow]
    doubts: Sequence[str]


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One entry then and now."""

    entry: str
    then: str
    now: str
    change: str
    interval: str
    verdict: str
    remarks: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs side by side; `labels` are what a reader must know before believing it."""

    rows: Sequence[ChangeRow]
    labels: Sequence[str]
    only_first: Sequence[str]
    only_second: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarksPage:
    """Everything that `benchmarks.html` refers to, and nothing else (a test compares the two)."""

    models: Sequence[str] = field(metadata=explained("The models that can be measured"))
    key_needed: bool = field(metadata=explained("Whether starting one needs the service's key"))
    runs: Sequence[Run] = field(metadata=explained("The newest runs first"))
    running: str | None = field(metadata=explained("The id of the run that is not over"))
    first: str = field(metadata=explained("The run chosen to be shown, or compared with; empty for none"))
    second: str = field(metadata=explained("The run that it is compared with; empty for none"))
    problem: str | None = field(metadata=explained("Why what was asked for cannot be shown"))
    results: Results | None = field(metadata=explained("What the one chosen run measured"))
    comparison: Comparison | None = field(metadata=explained("The two chosen runs compared"))


def run_rows(benchmarks: Iterable[Benchmark]) -> list[Run]:
    """The list of runs."""
    return [
        Run(
            id=each.row.id,
            when=datetime.fromtimestamp(each.row.created_at, UTC).strftime("%Y-%m-%d %H:%M"),
            state=each.row.state,
            what=_what(json.loads(each.row.request)),
            detail=each.row.detail or "",
            measured=each.row.measured,
        )
        for each in benchmarks
    ]


def result_rows(summaries: Iterable[EntrySummary]) -> list[ResultRow]:
    """The results of one run, controls included."""
    return [
        ResultRow(
            entry=each.entry.name,
            count=each.count,
            p50="" if each.p50_ns is None else milliseconds_text(each.p50_ns / 1e6),
            p90=_bound(each.p90),
            p99=_bound(each.p99),
            throughput=_throughput(each),
            memory="" if each.peak_memory_bytes is None else f"{each.peak_memory_bytes / 1e6:.0f}",
            speedup=_speedup(each),
            verdict="" if each.comparison is None else each.comparison.verdict,
        )
        for each in summaries
    ]


def comparison_rows(found: Regression) -> list[ChangeRow]:
    """What became of each entry that both runs have."""
    return [
        ChangeRow(
            entry=each.entry,
            then=milliseconds_text(each.then_ns / 1e6),
            now=milliseconds_text(each.now_ns / 1e6),
            change=f"{each.ratio - 1:+.1%}",
            interval=f"{each.low - 1:+.1%} to {each.high - 1:+.1%}",
            verdict=each.verdict,
            remarks=", ".join(
                word
                for word, applies in (("regressed", each.regressed), ("another file", each.other_file))
                if applies
            ),
        )
        for each in found.changes
    ]


def _what(request: dict[str, Any]) -> str:
    models = request.get("models")
    named = "all comparable models" if models is None else ", ".join(models)
    return f"{request.get('profile')}, {request.get('scenario')}: {named}"


def _bound(bound: PercentileBound | None) -> str:
    if bound is None:
        return ""
    return f"{milliseconds_text(bound.bound_ns / 1e6)} ({milliseconds_text(bound.estimate_ns / 1e6)})"


def _throughput(summary: EntrySummary) -> str:
    if summary.rate_per_s is not None:
        return f"{summary.rate_per_s:.1f}"
    return "" if summary.images_per_s is None else f"{summary.images_per_s:.1f}"


def _speedup(summary: EntrySummary) -> str:
    if summary.comparison is None:
        return ""
    estimate, low, high = summary.comparison.speedup
    return f"{estimate:.2f} ({low:.2f} to {high:.2f})"
