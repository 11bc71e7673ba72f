"""View model of the benchmark page: the dataclasses that its template renders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from models.zoo.statistics import PercentileBound
from service.bench.fingerprint import Host
from service.bench.jobs import Benchmark
from service.bench.judge.regression import Regression
from service.bench.judge.summary import EntrySummary
from service.inference.cpu import machine_name
from service.web.site import explained
from service.web.table import three_digits


@dataclass(frozen=True, slots=True)
class Run:
    """A row of the list of runs.

    `request`: profile, scenario and models. `detail`: why the run ended. `machine`: the machine that the run
    measured; empty for runs of earlier releases. `measured`: whether the run has results.
    """

    id: str
    when: str
    state: str
    machine: str
    request: str
    detail: str
    measured: bool


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One entry of a run, with its results as text.

    p90 and p99 have the form "bound (estimate)". A text is empty if the value is missing.
    """

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
    """The results of one run, the machine that it measured, and warnings about the quality of the run."""

    id: str
    machine: str
    rows: Sequence[ResultRow]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One entry that two runs have.

    `then` and `now` are its median latencies in milliseconds in the first and in the second run.
    """

    entry: str
    then: str
    now: str
    change: str
    interval: str
    verdict: str
    remarks: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of two runs.

    `labels`: caveats to show above the comparison. `only_first` and `only_second`: the entries that only the
    first or only the second run has.
    """

    rows: Sequence[ChangeRow]
    labels: Sequence[str]
    only_first: Sequence[str]
    only_second: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarksPage:
    """The variables of the template `benchmarks.html`. A test checks that the template uses exactly these."""

    models: Sequence[str] = field(metadata=explained("Models that can be measured"))
    key_needed: bool = field(metadata=explained("Whether starting a run needs WEIGHIN_API_KEY"))
    runs: Sequence[Run] = field(metadata=explained("Runs, newest first"))
    running: str | None = field(metadata=explained("Id of the active run"))
    first: str = field(
        metadata=explained("Id of the run to show, or of the first to compare; empty for none")
    )
    second: str = field(metadata=explained("Id of the second run to compare; empty for none"))
    problem: str | None = field(metadata=explained("Why the selected runs cannot be shown"))
    results: Results | None = field(metadata=explained("Results of the selected run"))
    comparison: Comparison | None = field(metadata=explained("Comparison of the two selected runs"))


def run_rows(benchmarks: Iterable[Benchmark]) -> list[Run]:
    """Build the rows of the list of runs."""
    return [
        Run(
            id=benchmark.row.id,
            when=datetime.fromtimestamp(benchmark.row.created_at, UTC).strftime("%Y-%m-%d %H:%M"),
            state=benchmark.row.state,
            machine=_machine_text(benchmark.row.machine),
            request=_request_text(json.loads(benchmark.row.request)),
            detail=benchmark.row.detail or "",
            measured=benchmark.row.measured,
        )
        for benchmark in benchmarks
    ]


def result_rows(summaries: Iterable[EntrySummary]) -> list[ResultRow]:
    """Build the result rows of one run, including controls."""
    return [
        ResultRow(
            entry=summary.entry.name,
            count=summary.count,
            p50="" if summary.p50_ns is None else three_digits(summary.p50_ns / 1e6),
            p90=_bound(summary.p90),
            p99=_bound(summary.p99),
            throughput=_throughput(summary),
            memory="" if summary.peak_memory_bytes is None else f"{summary.peak_memory_bytes / 1e6:.0f}",
            speedup=_speedup(summary),
            verdict="" if summary.comparison is None else summary.comparison.verdict,
        )
        for summary in summaries
    ]


def comparison_rows(regression: Regression) -> list[ChangeRow]:
    """Build one row for each entry that both runs have."""
    return [
        ChangeRow(
            entry=change.entry,
            then=three_digits(change.then_ns / 1e6),
            now=three_digits(change.now_ns / 1e6),
            change=f"{change.ratio - 1:+.1%}",
            interval=f"{change.low - 1:+.1%} to {change.high - 1:+.1%}",
            verdict=change.verdict,
            remarks=", ".join(
                word
                for word, applies in (("regressed", change.regressed), ("another file", change.other_file))
                if applies
            ),
        )
        for change in regression.changes
    ]


def _request_text(request: dict[str, Any]) -> str:
    models = request.get("models")
    named = "all comparable models" if models is None else ", ".join(models)
    return f"{request.get('profile')}, {request.get('scenario')}: {named}"


def _machine_text(host: Host | None) -> str:
    return "" if host is None else f"{machine_name(host.cpu, host.cores)} ({host.host})"


def _bound(bound: PercentileBound | None) -> str:
    if bound is None:
        return ""
    return f"{three_digits(bound.bound_ns / 1e6)} ({three_digits(bound.estimate_ns / 1e6)})"


def _throughput(summary: EntrySummary) -> str:
    if summary.rate_per_s is not None:
        return f"{summary.rate_per_s:.1f}"
    return "" if summary.images_per_s is None else f"{summary.images_per_s:.1f}"


def _speedup(summary: EntrySummary) -> str:
    if summary.comparison is None:
        return ""
    estimate, low, high = summary.comparison.speedup
    return f"{estimate:.2f}" + ("" if low is None or high is None else f" ({low:.2f} to {high:.2f})")
