"""/benchmarks: run benchmarks as jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from models.zoo.statistics import PercentileBound
from models.zoo.verdicts import MIN_ROUNDS
from service import errors
from service.api.body.request import app_part, root_of
from service.api.periods import format_moment
from service.api.problems import documented
from service.api.routers import key_needed, new_router
from service.bench.bundle import Bundle
from service.bench.bundle_file import from_json
from service.bench.fingerprint import Host
from service.bench.jobs import Benchmark, BenchmarkJobs
from service.bench.judge.summary import EntrySummary, summarise
from service.bench.measure import plan
from service.inference.runtimes.base import RuntimeName

router = new_router("benchmarks")

MAX_EVENT_INTERVAL_S = 10.0
"""Maximum seconds between two events.

If nothing changes for so long, the last event is repeated, so that the stream stays open.
"""

Limit = Annotated[int, Query(description="Maximum number of benchmarks, newest first", ge=1, le=500)]


class BenchmarkRequest(BaseModel):
    """Configuration of a benchmark.

    By default, the benchmark is a quick run of all models that have the default model's label set.
    """

    model_config = ConfigDict(extra="forbid")

    models: list[str] | None = Field(default=None, description="Model names; by default all comparable ones")
    profile: Literal["quick", "standard", "publish"] = Field(
        default="quick",
        description="quick: about 15 s per model, no p99; standard: enough runs for p99; publish: more runs",
    )
    scenario: Literal["single-stream", "offline", "server"] = "single-stream"
    baseline: str | None = Field(default=None, description="Model that the others are compared with")
    threads: list[int] = Field(default=[1], description="Threads per image; the service itself uses 1")
    runtime: list[RuntimeName] = Field(
        default=["onnxruntime"], description="Runtimes to measure; `openvino` must be installed"
    )
    budget_ms: float | None = Field(
        default=None, description="Scenario `server`: highest allowed p99 in milliseconds"
    )

    def to_plan(self) -> plan.Request:
        """Convert to the request that `make_plan` takes."""
        return plan.Request(
            models=None if self.models is None else tuple(self.models),
            profile=self.profile,
            scenario=self.scenario,
            baseline=self.baseline,
            threads=tuple(self.threads),
            runtimes=tuple(self.runtime),
            budget_ms=self.budget_ms,
        )


class ProgressOut(BaseModel):
    """Progress of a benchmark.

    `launch` and `round` are the numbers of the current launch and of its current round. They count from 1.
    Each is 0 before the first launch or round begins.
    """

    doing: str
    launch: int
    launches: int
    round: int
    rounds: int
    done: float = Field(description="0 to 1")
    elapsed_s: float
    left_s: float = Field(description="Estimated seconds until the end")


class BoundOut(BaseModel):
    """A percentile in milliseconds: estimate and upper bound at 99 % confidence."""

    estimate: float
    bound: float

    @classmethod
    def of(cls, bound: PercentileBound | None) -> BoundOut | None:
        """Return the percentile for the response, or None if there are too few runs."""
        if bound is None:
            return None
        return cls(estimate=round(bound.estimate_ns / 1e6, 3), bound=round(bound.bound_ns / 1e6, 3))


class LatencyOut(BaseModel):
    """Latency in milliseconds. A percentile is null if there are too few runs for it."""

    count: int
    p50: float | None
    p90: BoundOut | None
    p95: BoundOut | None
    p99: BoundOut | None


class SpeedupOut(BaseModel):
    """Speed-up over the baseline with its 95 % interval and verdict."""

    estimate: float
    low: float | None = Field(description=f"Of the 95 % interval; null with fewer than {MIN_ROUNDS} rounds")
    high: float | None
    verdict: Literal["faster", "slower", "indistinguishable"]


class ResultOut(BaseModel):
    """Results of one entry of a benchmark."""

    entry: str = Field(
        description="Name of the entry: the model with a suffix for threads, runtime, HTTP or control",
        examples=["lite0#again"],
    )
    model: str
    control: bool = Field(description="Whether this is the control: the baseline, measured a second time")
    stage: str = Field(description="Stage of the latencies")
    latency_ms: LatencyOut
    images_per_s: float | None
    rate_per_s: float | None = Field(
        description="Scenario `server`: highest rate with the p99 within the budget, in queries per second"
    )
    peak_memory_bytes: int | None
    gmacs_per_s: float | None
    speedup: SpeedupOut | None


class FlagOut(BaseModel):
    """A reason to doubt the benchmark or one of its entries."""

    kind: str = Field(examples=["dirty", "contaminated"])
    entry: str | None
    reason: str


class BenchmarkOut(BaseModel):
    """State of a benchmark."""

    id: str
    state: Literal["running", "done", "cancelled", "failed", "interrupted"]
    cancelling: bool = Field(description="Whether it was cancelled and is still stopping")
    created_at: str
    finished_at: str | None
    request: dict[str, Any]
    machine: Host | None = Field(
        description="The machine that is measured; null for benchmarks of earlier releases"
    )
    progress: ProgressOut | None
    detail: str | None = Field(description="Reason of a failure or an early end")
    measured: bool = Field(description="Whether /benchmarks/{id}/bundle has results")

    @classmethod
    def of(cls, benchmark: Benchmark) -> BenchmarkOut:
        """Build the response."""
        return cls(**_facts(benchmark))


class BenchmarkDetails(BenchmarkOut):
    """A benchmark with its results.

    The lists `results` and `flags` are empty until the benchmark ends.
    """

    results: list[ResultOut]
    flags: list[FlagOut]

    @classmethod
    def with_results(cls, benchmark: Benchmark, bundle: Bundle | None) -> BenchmarkDetails:
        """Build the response. If a `bundle` is given, the response contains its results."""
        results = [] if bundle is None else [_result(summary) for summary in summarise(bundle)]
        flags = [] if bundle is None else [FlagOut(**flag.model_dump()) for flag in bundle.flags]
        return cls(**_facts(benchmark), results=results, flags=flags)


class BenchmarksResponse(BaseModel):
    """Benchmarks, newest first."""

    benchmarks: list[BenchmarkOut]


@router.post(
    "/benchmarks",
    summary="Start a benchmark",
    status_code=202,
    dependencies=[Depends(key_needed)],
    responses=documented(
        errors.Unauthorized,
        errors.CrossSiteRequest,
        errors.UnknownModel,
        errors.BodyTooLarge,
        errors.InvalidParameter,
        errors.Busy,
        errors.ModelUnavailable,
        errors.DeadlineExceeded,
        errors.StorageUnavailable,
    ),
)
async def start(
    request: Request, response: Response, configuration: BenchmarkRequest | None = None
) -> BenchmarkOut:
    """Start a benchmark in a separate process.

    Each machine runs one benchmark at a time, and none while the demo runs.

    `Location` is the URL of the benchmark; append `/events` to watch it. If the service answers requests
    during the run, the benchmark is flagged `contaminated`, and `/recommend` does not use it.
    """
    started = await app_part(request, BenchmarkJobs).start((configuration or BenchmarkRequest()).to_plan())
    response.headers["Location"] = f"{root_of(request)}/benchmarks/{started.row.id}"
    return BenchmarkOut.of(started)


@router.get(
    "/benchmarks",
    summary="List benchmarks",
    responses=documented(errors.InvalidParameter, errors.StorageUnavailable),
)
async def newest(request: Request, limit: Limit = 50) -> BenchmarksResponse:
    """List the benchmarks of this service and of `weighin bench`, newest first, without results."""
    found = await app_part(request, BenchmarkJobs).newest(limit)
    return BenchmarksResponse(benchmarks=[BenchmarkOut.of(benchmark) for benchmark in found])


@router.get(
    "/benchmarks/{id}",
    summary="Get a benchmark",
    responses=documented(errors.UnknownBenchmark, errors.StorageUnavailable),
)
async def one(request: Request, id: str) -> BenchmarkDetails:
    """Return a benchmark's state, machine, progress and results, even if another replica runs it."""
    jobs = app_part(request, BenchmarkJobs)
    benchmark = await jobs.get(id)
    if not benchmark.row.measured:
        return BenchmarkDetails.with_results(benchmark, None)
    content = await jobs.bundle(id)

    def details() -> BenchmarkDetails:
        bundle = None if content is None else from_json(content, f"Benchmark '{id[:64]}'")
        return BenchmarkDetails.with_results(benchmark, bundle)

    return await asyncio.to_thread(details)


@router.get(
    "/benchmarks/{id}/bundle",
    summary="Get a benchmark's bundle",
    response_class=Response,
    responses={
        200: {"content": {"application/json": {}}, "description": "See docs/bundle.schema.json"},
        **documented(errors.UnknownBenchmark, errors.NotReady, errors.StorageUnavailable),
    },
)
async def bundle(request: Request, id: str) -> Response:
    """Download raw samples, configuration and fingerprint, as `weighin bench --json` writes them.

    The answer is 503 while the benchmark runs, and 404 if it ended without results.
    """
    jobs = app_part(request, BenchmarkJobs)
    content = await jobs.bundle(id)
    if content is None:
        if (await jobs.get(id)).ended:
            raise errors.UnknownBenchmark(f"benchmark '{id[:64]}': ended without results")
        raise errors.NotReady(f"benchmark '{id[:64]}': still running")
    headers = {"Content-Disposition": f'attachment; filename="weighin-{id}.json"'}
    return Response(content, media_type="application/json", headers=headers)


@router.get(
    "/benchmarks/{id}/events",
    summary="Watch a benchmark",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Events `progress`, then one `end`"},
        **documented(errors.UnknownBenchmark, errors.StorageUnavailable),
    },
)
async def events(request: Request, id: str) -> StreamingResponse:
    """Stream server-sent events: `progress` on every change, then one `end`.

    The data of each event is the benchmark as JSON. If another replica runs the benchmark, changes arrive
    once a second. The stream ends early if the service stops.
    """
    jobs = app_part(request, BenchmarkJobs)
    await jobs.get(id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(jobs, id), media_type="text/event-stream", headers=headers)


@router.delete(
    "/benchmarks/{id}",
    summary="Cancel a benchmark",
    dependencies=[Depends(key_needed)],
    responses={
        202: {"model": BenchmarkOut, "description": "Stopping"},
        **documented(
            errors.Unauthorized,
            errors.CrossSiteRequest,
            errors.UnknownBenchmark,
            errors.BenchmarkEnded,
            errors.StorageUnavailable,
        ),
    },
)
async def cancel(request: Request, id: str, response: Response) -> BenchmarkOut:
    """Stop a benchmark, and keep its results so far, flagged `partial`.

    The answer is 202 while the benchmark stops, and 200 once it has stopped. The request can be repeated. If
    another replica runs the benchmark, that replica stops it within about a second. If the benchmark already
    ended in another way, the answer is 409 and its results stay.
    """
    benchmark = await app_part(request, BenchmarkJobs).cancel(id)
    if not benchmark.ended:
        response.status_code = 202
    return BenchmarkOut.of(benchmark)


async def _events(jobs: BenchmarkJobs, identifier: str) -> AsyncIterator[str]:
    async for benchmark in jobs.follow(identifier, MAX_EVENT_INTERVAL_S):
        yield _event(benchmark)


def _event(benchmark: Benchmark) -> str:
    kind = "end" if benchmark.ended else "progress"
    return f"event: {kind}\ndata: {BenchmarkOut.of(benchmark).model_dump_json()}\n\n"


def _facts(benchmark: Benchmark) -> dict[str, Any]:
    row, progress = benchmark.row, benchmark.progress
    return {
        "id": row.id,
        "state": row.state,
        "cancelling": benchmark.cancelling,
        "created_at": format_moment(row.created_at),
        "finished_at": None if row.finished_at is None else format_moment(row.finished_at),
        "request": json.loads(row.request),
        "machine": row.machine,
        "progress": None if progress is None else ProgressOut(**vars(progress)),
        "detail": row.detail,
        "measured": row.measured,
    }


def _result(summary: EntrySummary) -> ResultOut:
    comparison = summary.comparison
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
        if comparison is None
        else SpeedupOut(
            estimate=comparison.speedup[0],
            low=comparison.speedup[1],
            high=comparison.speedup[2],
            verdict=comparison.verdict,
        ),
    )
