"""/benchmarks: controlled measurements as jobs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import SecretStr
from starlette.responses import StreamingResponse

from service import errors
from service.api.access import key_needed
from service.api.answers import root_of
from service.api.benchmark_schemas import (
    BenchmarkDetails,
    BenchmarkOut,
    BenchmarkRequest,
    BenchmarksResponse,
)
from service.api.problems import documented
from service.bench.bundle_file import from_json
from service.bench.jobs import Benchmark, BenchmarkJobs

TELL_EVERY_S = 10.0
"""An event at least so often, so that whoever waits knows that the stream is alive."""

Limit = Annotated[int, Query(description="How many, the newest first", ge=1, le=500)]


def benchmarks_router(jobs: BenchmarkJobs, api_key: SecretStr | None) -> APIRouter:
    """The routes that start, show and end benchmarks. `api_key` guards those that change something."""
    router = APIRouter(tags=["benchmarks"])
    guarded = [Depends(key_needed(api_key))]

    @router.post(
        "/benchmarks",
        summary="Measure models on this machine",
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
        summary="Which benchmarks were there?",
        responses=documented(errors.InvalidParameter, errors.StorageUnavailable),
    )
    async def newest(limit: Limit = 50) -> BenchmarksResponse:
        """Benchmarks of this service and of `weighin bench`, the newest first, without their results."""
        return BenchmarksResponse(benchmarks=[BenchmarkOut.of(each) for each in await jobs.newest(limit)])

    @router.get(
        "/benchmarks/{id}",
        summary="One benchmark with its results",
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
        summary="The measurement as a file",
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
