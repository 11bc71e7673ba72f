"""GET /latency and /latency/history: what each model and stage has cost here."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from models.zoo.statistics import MIN_SAMPLES
from service import errors
from service.api.periods import format_moment, parse_since, parse_step
from service.api.problems import documented
from service.api.routers import new_router
from service.latency.histogram import EMPTY_SUMMARY
from service.latency.query import CURRENT, Latencies, Window
from service.latency.series import Figures
from service.latency.stages import STAGES, Regime, Stage

_WINDOW: dict[str, JsonValue] = {
    "from": "2026-01-30T12:00:00Z",
    "to": "2026-01-31T12:00:00.250Z",
    "resolution_s": 60,
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
    """The time that the answer covers."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _WINDOW})

    from_: datetime = Field(
        alias="from",
        description="Where it begins: the moment asked for, rounded down to a whole bucket of what is kept",
    )
    to: datetime = Field(description="Now")
    resolution_s: int = Field(description="Seconds of the bucket it begins with; in a history, of a step")


class Latency(BaseModel):
    """One model and stage. Percentiles are null with too few samples behind them."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _ROW})

    model: str
    stage: Stage
    regime: Regime
    count: int = Field(description="Recorded runs, exact")
    errors: dict[str, int] = Field(description="Failed requests by kind, in the row of `total`; else empty")
    mean_ms: float | None = Field(description="Exact; null without samples")
    p50_ms: float | None = Field(description="Within 0.1 %; null without samples")
    p90_ms: float | None = Field(description=f"Within 0.1 %; null below {MIN_SAMPLES[0.90]} samples")
    p95_ms: float | None = Field(description=f"Within 0.1 %; null below {MIN_SAMPLES[0.95]} samples")
    p99_ms: float | None = Field(description=f"Within 0.1 %; null below {MIN_SAMPLES[0.99]} samples")
    max_ms: float | None = Field(description="Exact; null without samples")


class LatencyPoint(Latency):
    """One model and stage in one step."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"at": _WINDOW["from"], **_ROW}})

    at: datetime = Field(description="First second of the step")


DEGRADED = Field(
    description="Why only what is in this process's memory is in the answer; null when everything is",
    examples=[None],
)


VERSION = Field(
    description="Versions of each model that the figures are of: `current`, `all`, or the start of a SHA-256",
    examples=["current"],
)


class ModelVersion(BaseModel):
    """A version of a model."""

    model_config = ConfigDict(extra="forbid")

    model: str
    version: str = Field(description="SHA-256 of its file")


class LatencyResponse(BaseModel):
    """What each model and stage has cost."""

    model_config = ConfigDict(extra="forbid")

    window: LatencyWindow
    version: str = VERSION
    other_versions: list[ModelVersion] = Field(
        description="Versions that the figures leave out, with runs since the day in which the window begins",
        examples=[[]],
    )
    latencies: list[Latency]
    errors_without_model: dict[str, int] = Field(
        description="Requests that failed before a model was known, by kind; empty when one is asked for",
        examples=[{"unknown-model": 1}],
    )
    degraded: str | None = DEGRADED


class HistoryResponse(BaseModel):
    """What each model and stage has cost, step by step."""

    model_config = ConfigDict(extra="forbid")

    window: LatencyWindow
    version: str = VERSION
    points: list[LatencyPoint]
    degraded: str | None = DEGRADED


MAX_ROWS = 50_000
"""Most points of a history over all models and stages (some 10 MB)."""

SHARED_FOR_S = 1.0
"""For so long equal questions get the same answer, unless something was recorded since."""

ModelName = Annotated[
    str | None,
    Query(
        description="One model; by default all that anything was recorded of", examples=["efficientnet-lite0"]
    ),
]
StageName = Annotated[Stage | None, Query(description="One stage; by default all")]
RegimeName = Annotated[Regime, Query(description="How the samples came about; regimes are never pooled")]
Since = Annotated[
    str,
    Query(
        description="A length of time (`15m`, `24h`, `30d`) or a moment in ISO 8601 (UTC unless it says so)",
        examples=["24h", "2026-01-31T12:00:00Z"],
    ),
]
VersionName = Annotated[
    str,
    Query(
        pattern="^(current|all|[0-9a-f]{4,64})$",
        description="`current`: the file that each model is served from, with what earlier releases recorded "
        "without a version; `all`; or at least four digits of the beginning of a SHA-256",
    ),
]
Step = Annotated[
    str | None,
    Query(
        description="Length of a step in whole minutes (`60s`, `5m`, `1h`, `1d`); by default minutes for an "
        "hour, hours for a week, else days",
        examples=["5m"],
    ),
]


def latency_router(latencies: Latencies, model_names: Callable[[], Collection[str]]) -> APIRouter:
    """The routes that tell recorded latencies. `model_names`: of the models that are served."""
    router = new_router("latency")
    # One thread beside the event loop and the pool: answers are merged one at a time, requests go first.
    reader = ThreadPoolExecutor(1, thread_name_prefix="weighin-latency")
    shared = _Shared(latencies.revision)

    async def answer(key: tuple[object, ...], work: Callable[[], Any]) -> Response:
        asked = time.monotonic()
        body = await asyncio.get_running_loop().run_in_executor(reader, shared.answer, key, asked, work)
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    def check(model: str | None) -> None:
        if model is not None:
            check_model(latencies, model_names(), model)

    @router.get(
        "/latency",
        summary="Get latency summary",
        response_model=LatencyResponse,
        responses=documented(errors.UnknownModel, errors.InvalidParameter),
    )
    async def latency(
        model: ModelName = None,
        stage: StageName = None,
        regime: RegimeName = "live",
        since: Since = "24h",
        version: VersionName = CURRENT,
    ) -> Response:
        """Counts, mean, percentiles and maximum of each model and stage, from the moment asked for until now.

        What this service has just answered is in it. A percentile with too few samples behind it is null. A
        model or stage that nothing was recorded of has no row, unless it was asked for by the model's name.
        """

        def work() -> dict[str, object]:
            check(model)
            begin = parse_since(since, latencies.now())
            window, figures = latencies.window(regime, begin, model=model, stage=stage, version=version)
            return {
                "window": window_out(window),
                "version": version,
                "other_versions": [
                    {"model": name, "version": sha256}
                    for name, sha256 in latencies.left_out(regime, begin, model, version)
                ],
                "latencies": list(_rows(figures, regime, model, stage, empty_too=True)),
                "errors_without_model": figures.errors.get("", {}),
                "degraded": window.degraded,
            }

        return await answer(("latency", model, stage, regime, since, version), work)

    @router.get(
        "/latency/history",
        summary="Get latency over time",
        response_model=HistoryResponse,
        responses=documented(errors.UnknownModel, errors.InvalidParameter),
    )
    async def history(
        model: ModelName = None,
        stage: StageName = None,
        regime: RegimeName = "live",
        since: Since = "24h",
        step: Step = None,
        version: VersionName = CURRENT,
    ) -> Response:
        """The same figures step by step, oldest first; steps in which nothing was recorded are left out.

        The step is rounded up to what is kept of the time asked for: minutes for 48 hours, hours for 7 days,
        days for a year.
        """

        def work() -> dict[str, object]:
            check(model)
            step_s = None if step is None else parse_step(step)
            window, steps = latencies.history(
                regime, parse_since(since, latencies.now()), step_s, model=model, stage=stage, version=version
            )
            points: list[dict[str, object]] = []
            for at, figures in steps:
                moment = format_moment(at)
                points += ({"at": moment, **row} for row in _rows(figures, regime, model, stage))
                if len(points) > MAX_ROWS:
                    raise errors.InvalidParameter(
                        f"step: these are more than {MAX_ROWS} points: ask for one model or stage, take a "
                        "longer step or a later since"
                    )
            return {
                "window": window_out(window),
                "version": version,
                "points": points,
                "degraded": window.degraded,
            }

        return await answer(("history", model, stage, regime, since, step, version), work)

    return router


def check_model(latencies: Latencies, names: Collection[str], model: str) -> None:
    """Raise UnknownModel for one that is not served (`names` are) and that nothing was recorded of."""
    if model not in names and not latencies.knows(model):
        raise errors.UnknownModel(model, names)


class _Shared:
    """Answers that serve more than one equal question; used by one thread.

    An answer serves every question that was asked before its working out began, so a crowd of dashboards
    costs no more than a few, and for a second all others as long as nothing was recorded.
    """

    def __init__(self, revision: Callable[[], int]) -> None:
        self._revision = revision
        self._answers: dict[tuple[object, ...], tuple[float, int, bytes]] = {}

    def answer(self, key: tuple[object, ...], asked: float, work: Callable[[], Any]) -> bytes:
        """The JSON of `work()`, now or lately."""
        begun, revision = time.monotonic(), self._revision()
        earlier = self._answers.get(key)
        if earlier is not None and (
            earlier[0] >= asked or (earlier[0] > begun - SHARED_FOR_S and earlier[1] == revision)
        ):
            return earlier[2]
        body = orjson.dumps(work())
        self._answers = {k: v for k, v in self._answers.items() if v[0] > begun - SHARED_FOR_S}
        self._answers[key] = (begun, revision, body)
        return body


def window_out(window: Window) -> dict[str, object]:
    """The window as JSON has it."""
    return {
        "from": format_moment(window.start),
        "to": format_moment(window.end),
        "resolution_s": window.resolution_s,
    }


def _rows(
    figures: Figures, regime: Regime, model: str | None, stage: Stage | None, *, empty_too: bool = False
) -> Iterator[dict[str, object]]:
    """The rows of the models and stages asked for, by model and in the order of the stages."""
    names = {name for name, _ in figures.summaries} | figures.errors.keys() - {""}
    if model is not None:
        names = names & {model} | ({model} if empty_too else set())
    for name in sorted(names):
        failures = figures.errors.get(name, {})
        for each in STAGES if stage is None else (stage,):
            summary = figures.summaries.get((name, each))
            told = failures if each == "total" else {}
            if summary is None and not told and not (empty_too and model is not None):
                continue
            summary = summary or EMPTY_SUMMARY
            yield {
                "model": name,
                "stage": each,
                "regime": regime,
                "count": summary.count,
                "errors": told,
                "mean_ms": summary.mean_ms,
                "p50_ms": summary.p50_ms,
                "p90_ms": summary.p90_ms,
                "p95_ms": summary.p95_ms,
                "p99_ms": summary.p99_ms,
                "max_ms": summary.max_ms,
            }
