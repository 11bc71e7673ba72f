"""GET /dashboard/benchmarks: page that lists, starts, follows and compares controlled benchmarks."""

import asyncio
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import HTMLResponse

from service.api.body.request import app_part, ignores_unknown_parameters, root_of
from service.api.problems import documented
from service.api.routers import ApiKey, new_router
from service.bench.bundle import Bundle
from service.bench.bundle_file import from_json
from service.bench.jobs import BenchmarkJobs
from service.bench.judge.regression import compare_bundles
from service.bench.judge.summary import summarise
from service.errors import InvalidBundle, InvalidParameter, StorageUnavailable, UnknownBenchmark
from service.inference.registry import Registry
from service.web.benchmark_page import (
    BenchmarksPage,
    Comparison,
    Results,
    comparison_rows,
    result_rows,
    run_rows,
)
from service.web.site import Site

router = new_router("pages")

MAX_RUNS = 50
"""Maximum number of runs that are listed."""

Id = Annotated[str, Query(description="A benchmark's id; empty for none", max_length=64)]


@router.get(
    "/dashboard/benchmarks",
    summary="Benchmark page",
    response_class=HTMLResponse,
    responses=documented(InvalidParameter),
)
@ignores_unknown_parameters
async def benchmarks(request: Request, first: Id = "", second: Id = "") -> HTMLResponse:
    """List the newest runs, and show the results of one run or compare two runs.

    With `first` only, the page shows the results of this run. With `first` and `second`, it compares the two
    runs. The page starts runs with `POST /benchmarks` and follows them with `GET /benchmarks/{id}/events`.
    """
    jobs = app_part(request, BenchmarkJobs)
    problem, results, comparison = None, None, None
    try:
        runs = await jobs.newest(MAX_RUNS)
        if first and second:
            comparison = await _compare(jobs, first, second)
        elif first or second:
            results = await _results(jobs, first or second)
    except (UnknownBenchmark, InvalidBundle) as error:
        problem = error.detail
    except StorageUnavailable as error:
        problem, runs = f"Results unavailable: {error.detail}", []
    page = BenchmarksPage(
        models=list(app_part(request, Registry).names()),
        key_needed=app_part(request, ApiKey).secret is not None,
        runs=run_rows(runs),
        running=next((run.row.id for run in runs if not run.ended), None),
        first=first,
        second=second,
        problem=problem,
        results=results,
        comparison=comparison,
    )
    site = app_part(request, Site)
    return site.page("benchmarks.html", page, here="/dashboard/benchmarks", root=root_of(request))


async def _results(jobs: BenchmarkJobs, identifier: str) -> Results:
    bundle = await _bundle(jobs, identifier)
    rows = result_rows(await asyncio.to_thread(summarise, bundle))
    return Results(
        identifier,
        bundle.fingerprint.machine.name,
        rows,
        [f"{flag.kind}: {flag.reason}" for flag in bundle.flags],
    )


async def _compare(jobs: BenchmarkJobs, first: str, second: str) -> Comparison:
    then, now = await _bundle(jobs, first), await _bundle(jobs, second)
    regression = await asyncio.to_thread(compare_bundles, then, now)
    return Comparison(
        comparison_rows(regression),
        list(regression.labels),
        list(regression.only_then),
        list(regression.only_now),
    )


async def _bundle(jobs: BenchmarkJobs, identifier: str) -> Bundle:
    """Read a run's bundle.

    Raises InvalidBundle, and UnknownBenchmark if there is no such run or it has no measurement.
    """
    content = await jobs.bundle(identifier)
    if content is None:
        raise UnknownBenchmark(f"benchmark '{identifier[:64]}' has no measurement")
    return await asyncio.to_thread(from_json, content, f"Benchmark '{identifier[:64]}'")
