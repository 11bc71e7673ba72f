"""GET /latency and /latency/history: recorded latency per model and stage."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from models.zoo.statistics import MIN_SAMPLES
from service import errors
from service.api.body.request import app_part
from service.api.periods import format_moment, parse_since, parse_step
from service.api.problems import documented
from service.api.routers import new_router
from service.inference.registry import Registry
from service.latency.histogram import EMPTY_SUMMARY
from service.latency.query import CURRENT, UNKNOWN_MACHINE, Latencies, Window
from service.latency.series import Figures
from service.latency.stages import STAGES, Regime, Stage

router = new_router("latency")

_WINDOW: dict[str, JsonValue] = {
    "from": "2026-01-30T12:00:00Z",
    "to": "2026-01-31T12:00:00.250Z",
    "resolution_s": 60,
    "machines": ["AMD EPYC 9R14, 2 cores"],
    "other_machines": [],
}
_ROW: dict[str, JsonValue] = {
    "model": "efficientnet-lite0-int8",
    "stage": "total",
    "regime": "live",
    "count": 412,
    "errors": {"queue-full": 3},
    "mean_ms": 2.904,
    "p50_ms": 2.741,
    "p90_ms": 3.335,
    "p95_ms": 3.971,
    "p99_ms": None,
    "max_ms": 19.207,
}


class LatencyWindow(BaseModel):
    """Time range that the response covers."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _WINDOW})

    from_: datetime = Field(
        alias="from",
        description="Start: the requested time, rounded down to the start of a stored bucket",
    )
    to: datetime = Field(description="End: the time of the request")
    resolution_s: int = Field(description="Seconds of the first bucket; in a history, seconds of a step")
    machines: list[str] = Field(
        description="Machines whose runs are pooled. A machine is listed if it has runs since the start of "
        "the window's first day, even if all were before the window. `unknown`: runs of earlier releases"
    )
    other_machines: list[str] = Field(description="Machines whose runs the parameter `machine` leaves out")


class Latency(BaseModel):
    """Latency of one model and stage. A percentile is null if there are too few samples for it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _ROW})

    model: str
    stage: Stage
    regime: Regime
    count: int = Field(description="Number of recorded runs, exact")
    errors: dict[str, int] = Field(
        description="Number of failed requests by kind of error; empty in rows of other stages than `total`"
    )
    mean_ms: float | None = Field(description="Exact; null if there are no samples")
    p50_ms: float | None = Field(description="Error at most 0.1 %; null if there are no samples")
    p90_ms: float | None = Field(description=f"Error at most 0.1 %; null below {MIN_SAMPLES[0.90]} samples")
    p95_ms: float | None = Field(description=f"Error at most 0.1 %; null below {MIN_SAMPLES[0.95]} samples")
    p99_ms: float | None = Field(description=f"Error at most 0.1 %; null below {MIN_SAMPLES[0.99]} samples")
    max_ms: float | None = Field(description="Exact; null if there are no samples")


class LatencyPoint(Latency):
    """Latency of one model and stage in one time step of the history."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"at": _WINDOW["from"], **_ROW}})

    at: datetime = Field(description="Start of the step")


DEGRADED = Field(
    description="Why the database is unavailable, so that only this process's memory was read; else null",
    examples=[None],
)


VERSION = Field(
    description="Versions of each model that the figures cover: `current`, `all`, or the start of a SHA-256",
    examples=["current"],
)


class ModelVersion(BaseModel):
    """A model and the file that it was served from."""

    model_config = ConfigDict(extra="forbid")

    model: str
    version: str = Field(description="SHA-256 of its file")


class ModelRuntime(BaseModel):
    """A model and the runtime that ran it."""

    model_config = ConfigDict(extra="forbid")

    model: str
    runtime: str = Field(
        description="`onnxruntime` or `openvino`, followed by the precision if the card gives another one, "
        "such as `openvino-bf16`; `unknown` for runs of earlier releases",
        examples=["onnxruntime"],
    )


RUNTIMES = Field(
    description="Runtimes that ran the models since the start of the window's first day. If the parameter "
    "`runtime` is not given, the runs in all runtimes are pooled",
    examples=[[{"model": "efficientnet-lite0-int8", "runtime": "onnxruntime"}]],
)


class LatencyResponse(BaseModel):
    """Latency per model and stage."""

    model_config = ConfigDict(extra="forbid")

    window: LatencyWindow
    version: str = VERSION
    other_versions: list[ModelVersion] = Field(
        description="Versions that are left out although they ran since the start of the window's first day",
        examples=[[]],
    )
    runtimes: list[ModelRuntime] = RUNTIMES
    latencies: list[Latency]
    errors_without_model: dict[str, int] = Field(
        description="Number of requests that failed before their model was known, by kind of error; empty if "
        "`model` is given",
        examples=[{"unknown-model": 1}],
    )
    degraded: str | None = DEGRADED


class HistoryResponse(BaseModel):
    """Latency per model and stage over time."""

    model_config = ConfigDict(extra="forbid")

    window: LatencyWindow
    version: str = VERSION
    runtimes: list[ModelRuntime] = RUNTIMES
    points: list[LatencyPoint]
    degraded: str | None = DEGRADED


MAX_ROWS = 50_000
"""Maximum number of points in a history, over all models and stages (about 10 MB)."""

CACHE_TTL_S = 1.0
"""Seconds for which a response is reused for equal requests, unless a latency was recorded meanwhile."""

ModelName = Annotated[
    str | None,
    Query(
        description="Model name; by default all models with recorded latencies",
        examples=["efficientnet-lite0"],
    ),
]
StageName = Annotated[Stage | None, Query(description="One stage; by default all")]
RegimeName = Annotated[
    Regime, Query(description="Source of the samples; samples of different regimes are never pooled")
]
Since = Annotated[
    str,
    Query(
        description="A duration (`15m`, `24h`, `30d`) or a time in ISO 8601 (UTC if it has no offset)",
        examples=["24h", "2026-01-31T12:00:00Z"],
    ),
]
VersionName = Annotated[
    str,
    Query(
        pattern="^(current|all|[0-9a-f]{4,64})$",
        description="`current`: runs of the file that each model is served from, and runs that earlier "
        "releases recorded without a version. `all`: all runs. Or the beginning of a file's SHA-256, at "
        "least four digits",
    ),
]
RuntimeLabel = Annotated[
    str | None,
    Query(
        pattern="^[a-z0-9]+(-[a-z0-9]+)*$",
        max_length=32,
        description="Only runs in this runtime, by its name in `runtimes`; by default all runs. All errors "
        "are counted in any case, because errors are recorded without a runtime",
        examples=["openvino"],
    ),
]
MachineName = Annotated[
    str | None,
    Query(
        max_length=200,
        description="Only runs and errors of one kind of machine, by its name (CPU and cores) in `machines` "
        "or `other_machines` of `window`; by default those of all machines, pooled",
        examples=["AMD EPYC 9R14, 2 cores"],
    ),
]
Step = Annotated[
    str | None,
    Query(
        description="Length of a step, whole minutes (`60s`, `5m`, `1h`, `1d`); by default a minute for "
        "windows of up to an hour, an hour for windows of up to a week, and a day for longer windows",
        examples=["5m"],
    ),
]


@router.get(
    "/latency",
    summary="Get latency summary",
    response_model=LatencyResponse,
    responses=documented(errors.UnknownModel, errors.InvalidParameter),
)
async def latency(
    request: Request,
    model: ModelName = None,
    stage: StageName = None,
    regime: RegimeName = "live",
    since: Since = "24h",
    version: VersionName = CURRENT,
    runtime: RuntimeLabel = None,
    machine: MachineName = None,
) -> Response:
    """Return count, mean, percentiles and maximum per model and stage, from `since` until now.

    The most recent requests are included. A percentile is null if there are too few samples. A model or
    stage without samples has no row, unless `model` is given.
    """

    latencies = app_part(request, Latencies)

    def compute() -> dict[str, object]:
        check_model(request, model)
        check_machine(request, machine)
        begin = parse_since(since, latencies.now())
        window, figures = latencies.window(
            regime, begin, model=model, stage=stage, version=version, runtime=runtime, machine=machine
        )
        return {
            "window": window_out(window),
            "version": version,
            "other_versions": [
                {"model": name, "version": sha256}
                for name, sha256 in latencies.left_out(regime, begin, model, version, machine)
            ],
            "runtimes": runtimes_out(latencies, regime, begin, model, version, machine),
            "latencies": list(_rows(figures, regime, model, stage, empty_too=True)),
            "errors_without_model": figures.errors.get("", {}),
            "degraded": window.degraded,
        }

    key = ("latency", model, stage, regime, since, version, runtime, machine)
    return await app_part(request, LatencyAnswers).answer(key, compute)


@router.get(
    "/latency/history",
    summary="Get latency over time",
    response_model=HistoryResponse,
    responses=documented(errors.UnknownModel, errors.InvalidParameter),
)
async def history(
    request: Request,
    model: ModelName = None,
    stage: StageName = None,
    regime: RegimeName = "live",
    since: Since = "24h",
    step: Step = None,
    version: VersionName = CURRENT,
    runtime: RuntimeLabel = None,
    machine: MachineName = None,
) -> Response:
    """Return the figures of `GET /latency` per time step, oldest first. Steps without samples are left out.

    The step is rounded up to the resolution that is stored for `since`: minutes in the last 48 hours, hours
    in the last 7 days, days in the last year.
    """

    latencies = app_part(request, Latencies)

    def compute() -> dict[str, object]:
        check_model(request, model)
        check_machine(request, machine)
        step_s = None if step is None else parse_step(step)
        begin = parse_since(since, latencies.now())
        window, steps = latencies.history(
            regime, begin, step_s, model=model, stage=stage, version=version, runtime=runtime, machine=machine
        )
        points: list[dict[str, object]] = []
        for at, figures in steps:
            moment = format_moment(at)
            points += ({"at": moment, **row} for row in _rows(figures, regime, model, stage))
            if len(points) > MAX_ROWS:
                raise errors.InvalidParameter(
                    f"step: more than {MAX_ROWS} points (use one model or stage, a longer step or a "
                    "later since)"
                )
        return {
            "window": window_out(window),
            "version": version,
            "runtimes": runtimes_out(latencies, regime, begin, model, version, machine),
            "points": points,
            "degraded": window.degraded,
        }

    key = ("history", model, stage, regime, since, step, version, runtime, machine)
    return await app_part(request, LatencyAnswers).answer(key, compute)


def check_model(request: Request, model: str | None) -> None:
    """Raise UnknownModel unless the model is served or has recorded latencies. Reads the database."""
    names = app_part(request, Registry).names()
    if model is not None and model not in names and not app_part(request, Latencies).knows(model):
        raise errors.UnknownModel(model, names)


def check_machine(request: Request, machine: str | None) -> None:
    """Raise InvalidParameter unless latencies of the machine are stored. Reads the database.

    While the database cannot be read, every name is accepted, because the stored names are not known.
    """
    if machine is None or machine == UNKNOWN_MACHINE:
        return
    try:
        known = app_part(request, Latencies).machines()
    except errors.StorageUnavailable:
        return
    if machine not in known:
        allowed = "; ".join((*sorted(known - {UNKNOWN_MACHINE}), UNKNOWN_MACHINE))
        raise errors.InvalidParameter(f"machine {machine[:100]!r}: unknown (allowed: {allowed})")


class LatencyAnswers:
    """Computes the responses of the latency routes on one thread, and reuses them for equal requests.

    There is one thread, so that merging histograms takes at most one core from requests. Equal requests that
    wait when a computation begins all get its response, so that many dashboards cost no more than one. As
    long as no further latency is recorded, a response is also reused for later requests, for at most
    CACHE_TTL_S seconds.
    """

    def __init__(self, revision: Callable[[], int]) -> None:
        """`revision` returns a number that changes whenever something is recorded."""
        self._revision = revision
        self._answers: dict[tuple[object, ...], tuple[float, int, bytes]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weighin-latency")

    async def answer(self, key: tuple[object, ...], compute: Callable[[], Any]) -> Response:
        """Return `compute()` as a JSON response, or reuse the response to a request with the same `key`."""
        loop, asked_at = asyncio.get_running_loop(), time.monotonic()
        body = await loop.run_in_executor(self._thread, self._body, key, asked_at, compute)
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    def _body(self, key: tuple[object, ...], asked_at: float, compute: Callable[[], Any]) -> bytes:
        now, revision = time.monotonic(), self._revision()
        cached = self._answers.get(key)
        if cached is not None and (
            cached[0] >= asked_at or (cached[0] > now - CACHE_TTL_S and cached[1] == revision)
        ):
            return cached[2]
        body = orjson.dumps(compute())
        self._answers = {k: v for k, v in self._answers.items() if v[0] > now - CACHE_TTL_S}
        self._answers[key] = (now, revision, body)
        return body


def window_out(window: Window) -> dict[str, object]:
    """Return the time range as the JSON object that `LatencyWindow` describes."""
    return {
        "from": format_moment(window.start),
        "to": format_moment(window.end),
        "resolution_s": window.resolution_s,
        "machines": list(window.machines),
        "other_machines": list(window.other_machines),
    }


def runtimes_out(
    latencies: Latencies, regime: Regime, begin: float, model: str | None, version: str, machine: str | None
) -> list[dict[str, str]]:
    """Return the runtimes that ran each model, as the JSON objects that `ModelRuntime` describes."""
    found = latencies.runtimes(regime, begin, model, version, machine)
    return [{"model": name, "runtime": runtime} for name, runtime in found]


def _rows(
    figures: Figures, regime: Regime, model: str | None, stage: Stage | None, *, empty_too: bool = False
) -> Iterator[dict[str, object]]:
    """Yield the rows of the requested models and stages, sorted by model, then in the order of STAGES."""
    names = {name for name, _ in figures.summaries} | figures.errors.keys() - {""}
    if model is not None:
        names = names & {model} | ({model} if empty_too else set())
    for name in sorted(names):
        failures = figures.errors.get(name, {})
        for row_stage in STAGES if stage is None else (stage,):
            summary = figures.summaries.get((name, row_stage))
            row_errors = failures if row_stage == "total" else {}
            if summary is None and not row_errors and not (empty_too and model is not None):
                continue
            summary = summary or EMPTY_SUMMARY
            yield {
                "model": name,
                "stage": row_stage,
                "regime": regime,
                "count": summary.count,
                "errors": row_errors,
                "mean_ms": summary.mean_ms,
                "p50_ms": summary.p50_ms,
                "p90_ms": summary.p90_ms,
                "p95_ms": summary.p95_ms,
                "p99_ms": summary.p99_ms,
                "max_ms": summary.max_ms,
            }
