"""/benchmarks: controlled measurements as jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.responses import StreamingResponse

from models.zoo.statistics import PercentileBound
from service import errors
from service.api.body.request import root_of
from service.api.periods import format_moment
from service.api.problems import documented
from service.api.routers import key_needed, new_router
from service.bench.bundle import Bundle
from service.bench.bundle_file import from_json
from service.bench.jobs import Benchmark, BenchmarkJobs
from service.bench.judge.summary import EntrySummary, summarise
from service.bench.measure import plan

TELL_EVERY_S = 10.0
"""An event at least so often, so that whoever waits knows that the stream is alive."""

Limit = Annotated[int, Query(description="How many, the newest first", ge=1, le=500)]


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

    def wanted(self) -> plan.Request:
        """As the plan takes it."""
        return plan.Request(
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
        """Build the response."""
        return cls(**_facts(benchmark))


class BenchmarkDetails(BenchmarkOut):
    """A benchmark with its results; empty while there are none."""

    results: list[ResultOut]
    flags: list[FlagOut]

    @classmethod
    def with_results(cls, benchmark: Benchmark, bundle: Bundle | None) -> BenchmarkDetails:
        """Build the response, with the results in `bundle` if there is one."""
        results = [] if bundle is None else [_result(each) for each in summarise(bundle)]
        flags = [] if bundle is None else [FlagOut(**flag.model_dump()) for flag in bundle.flags]
        return cls(**_facts(benchmark), results=results, flags=flags)


class BenchmarksResponse(BaseModel):
    """Benchmarks, the newest first."""

    benchmarks: list[BenchmarkOut]


def benchmarks_router(jobs: BenchmarkJobs, api_key: SecretStr | None) -> APIRouter:
    """The routes that start, show and end benchmarks. `api_key` guards those that change something."""
    router = new_router("benchmarks")
    guarded = [Depends(key_needed(api_key))]

    @router.post(
        "/benchmarks",
        summary="Start a benchmark",
        status_code=202,
        dependencies=guarded,
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
        request: Request, response: Response, wanted: BenchmarkRequest | None = None
    ) -> BenchmarkOut:
        """Start a benchmark in a process of its own; one runs at a time.

        Follow it at the address in `Location`, or at `/events` below that. Requests that the service answers
        meanwhile disturb it: it is then flagged `contaminated`, and no evidence for `/recommend`.
        """
        started = await jobs.start((wanted or BenchmarkRequest()).wanted())
        response.headers["Location"] = f"{root_of(request)}/benchmarks/{started.row.id}"
        return BenchmarkOut.of(started)

    @router.get(
        "/benchmarks",
        summary="List benchmarks",
        responses=documented(errors.InvalidParameter, errors.StorageUnavailable),
    )
    async def newest(limit: Limit = 50) -> BenchmarksResponse:
        """Benchmarks of this service and of `weighin bench`, the newest first, without their results."""
        return BenchmarksResponse(benchmarks=[BenchmarkOut.of(each) for each in await jobs.newest(limit)])

    @router.get(
        "/benchmarks/{id}",
        summary="Get a benchmark",
        responses=documented(errors.UnknownBenchmark, errors.StorageUnavailable),
    )
    async def one(id: str) -> BenchmarkDetails:
        """How far it is, or how it ended and what was measured."""
        found = await jobs.get(id)
        if not found.row.measured:
            return BenchmarkDetails.with_results(found, None)
        content = await jobs.bundle(id)

        def details() -> BenchmarkDetails:
            bundle = None if content is None else from_json(content, f"Benchmark '{id[:64]}'")
            return BenchmarkDetails.with_results(found, bundle)

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
    async def bundle(id: str) -> Response:
        """Raw samples, configuration, fingerprint: what `weighin bench --json` writes, to be carried away.

        503 while it runs; 404 when it ended without a measurement.
        """
        content = await jobs.bundle(id)
        if content is None:
            found = await jobs.get(id)
            if found.ended:
                raise errors.UnknownBenchmark(f"benchmark '{id[:64]}' ended without a measurement")
            raise errors.NotReady(f"benchmark '{id[:64]}' is still running")
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
    async def events(id: str) -> StreamingResponse:
        """Server-sent events: `progress` whenever something changes, `end` when it has ended; the data of
        each is the benchmark as JSON. The stream ends early when the service stops."""
        await jobs.get(id)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(jobs, id), media_type="text/event-stream", headers=headers)

    @router.delete(
        "/benchmarks/{id}",
        summary="Cancel a benchmark",
        dependencies=guarded,
        responses={
            202: {"model": BenchmarkOut, "description": "It will end soon"},
            **documented(
                errors.Unauthorized,
                errors.CrossSiteRequest,
                errors.UnknownBenchmark,
                errors.BenchmarkEnded,
                errors.StorageUnavailable,
            ),
        },
    )
    async def cancel(id: str, response: Response) -> BenchmarkOut:
        """Stop it and keep what was measured, flagged `partial`: 202, and 200 once it has stopped.

        Cancelling twice is cancelling once. A benchmark that ended in another way is a 409: results stay.
        """
        found = await jobs.cancel(id)
        if not found.ended:
            response.status_code = 202
        return BenchmarkOut.of(found)

    return router


async def _events(jobs: BenchmarkJobs, identifier: str) -> AsyncIterator[str]:
    async for benchmark in jobs.follow(identifier, TELL_EVERY_S):
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
