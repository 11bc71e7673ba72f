"""What the benchmark endpoints take and answer, field for field; times in milliseconds."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.zoo.statistics import PercentileBound
from service.api.periods import format_moment
from service.bench.bundle import Bundle
from service.bench.jobs import Benchmark
from service.bench.judge.summary import EntrySummary, summarise
from service.bench.measure.plan import Request


class BenchmarkRequest(BaseModel):
    """What to measure. Everything has a default: a quick run of all models with the default's label set."""

    model_config = ConfigDict(extra="forbid")

    models: list[str] | None = Field(default=None, description="Names; by default all comparable ones")
    profile: Literal["quick", "standard", "publish"] = Field(
        default="quick",
        description="quick: some 15 s per model and no p99; standard: enough for a p99; publish: more",
    )
    scenario: Literal["single-stream", "offline", "server"] = "single-stream"
    baseline: str | None = Field(default=None, description="The model that the others are compared with")
    threads: list[int] = Field(default=[1], description="Threads per image; the service itself runs 1")
    budget_ms: float | None = Field(default=None, description="Server: the p99 that a rate must keep")

    def wanted(self) -> Request:
        """As the plan takes it."""
        return Request(
            models=None if self.models is None else tuple(self.models),
            profile=self.profile,
            scenario=self.scenario,
            baseline=self.baseline,
            threads=tuple(self.threads),
            budget_ms=self.budget_ms,
        )


class ProgressOut(BaseModel):
    """How far it is; `launch` and `round` count from 1, 0 where there is none."""

    doing: str
    launch: int
    launches: int
    round: int
    rounds: int
    done: float = Field(description="0 to 1")
    elapsed_s: float
    left_s: float = Field(description="Estimated")


class BoundOut(BaseModel):
    """A percentile in milliseconds: the plain estimate, and what it does not exceed with 99 % confidence."""

    estimate: float
    bound: float

    @classmethod
    def of(cls, bound: PercentileBound | None) -> BoundOut | None:
        """None stays None: too few runs."""
        if bound is None:
            return None
        return cls(estimate=round(bound.estimate_ns / 1e6, 3), bound=round(bound.bound_ns / 1e6, 3))


class LatencyOut(BaseModel):
    """Latency in milliseconds; percentiles are null where too few runs stand behind them."""

    count: int
    p50: float | None
    p90: BoundOut | None
    p95: BoundOut | None
    p99: BoundOut | None


class SpeedupOut(BaseModel):
    """How many times faster than the baseline, with the 95 % interval, and whether that can be told."""

    estimate: float
    low: float
    high: float
    verdict: Literal["faster", "slower", "indistinguishable"]


class ResultOut(BaseModel):
    """One entry of a measurement."""

    entry: str = Field(
        description="The model, with what is special about this entry", examples=["lite0#again"]
    )
    model: str
    control: bool = Field(description="The baseline again, under another name: should not differ from it")
    stage: str = Field(description="What the latencies are of")
    latency_ms: LatencyOut
    images_per_s: float | None
    rate_per_s: float | None = Field(description="Server: the highest rate that kept the budget")
    peak_memory_bytes: int | None
    gmacs_per_s: float | None
    speedup: SpeedupOut | None


class FlagOut(BaseModel):
    """A reason to doubt the measurement, or one entry of it."""

    kind: str = Field(examples=["dirty", "contaminated"])
    entry: str | None
    reason: str


class BenchmarkOut(BaseModel):
    """A benchmark as it stands."""

    id: str
    state: Literal["running", "done", "cancelled", "failed", "interrupted"]
    cancelling: bool = Field(description="It was told to stop and will soon")
    created_at: str
    finished_at: str | None
    request: dict[str, Any]
    progress: ProgressOut | None
    detail: str | None = Field(description="Why it ended as it did, where that is not plain")
    measured: bool = Field(description="Whether there is a measurement: /benchmarks/{id}/bundle")

    @classmethod
    def of(cls, benchmark: Benchmark) -> BenchmarkOut:
        """What is told of it."""
        return cls(**_facts(benchmark))


class BenchmarkDetails(BenchmarkOut):
    """A benchmark with its results; empty while there are none."""

    results: list[ResultOut]
    flags: list[FlagOut]

    @classmethod
    def with_results(cls, benchmark: Benchmark, bundle: Bundle | None) -> BenchmarkDetails:
        """What is told of it, and of what it measured."""
        results = [] if bundle is None else [_result(each) for each in summarise(bundle)]
        flags = [] if bundle is None else [FlagOut(**flag.model_dump()) for flag in bundle.flags]
        return cls(**_facts(benchmark), results=results, flags=flags)


class BenchmarksResponse(BaseModel):
    """Benchmarks, the newest first."""

    benchmarks: list[BenchmarkOut]


def _facts(benchmark: Benchmark) -> dict[str, Any]:
    row, progress = benchmark.row, benchmark.progress
    return {
        "id": row.id,
        "state": row.state,
        "cancelling": benchmark.cancelling,
        "created_at": format_moment(row.created_at),
        "finished_at": None if row.finished_at is None else format_moment(row.finished_at),
        "request": json.loads(row.request),
        "progress": None if progress is None else ProgressOut(**vars(progress)),
        "detail": row.detail,
        "measured": row.measured,
    }


def _result(summary: EntrySummary) -> ResultOut:
    compared = summary.comparison
    return ResultOut(
        entry=summary.entry.name,
        model=summary.entry.model,
        control=summary.entry.control,
        stage=summary.stage,
        latency_ms=LatencyOut(
            count=summary.count,
            p50=None if summary.p50_ns is None else round(summary.p50_ns / 1e6, 3),
            p90=BoundOut.of(summary.p90),
            p95=BoundOut.of(summary.p95),
            p99=BoundOut.of(summary.p99),
        ),
        images_per_s=summary.images_per_s,
        rate_per_s=summary.rate_per_s,
        peak_memory_bytes=summary.peak_memory_bytes,
        gmacs_per_s=summary.gmacs_per_s,
        speedup=None
        if compared is None
        else SpeedupOut(
            estimate=compared.speedup[0],
            low=compared.speedup[1],
            high=compared.speedup[2],
            verdict=compared.verdict,
        ),
    )
