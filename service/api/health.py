"""GET /healthz, /readyz and /metrics: health checks and metrics."""

from __future__ import annotations

from typing import Literal

from fastapi import Request, Response
from pydantic import BaseModel, Field

from service.api.body.request import app_part, ignores_unknown_parameters
from service.api.routers import new_router
from service.inference.loading import ModelEntry
from service.inference.registry import Registry
from service.latency.prometheus import CONTENT_TYPE, Metrics
from service.latency.recorder import Recorder
from service.own_models.replicas import SharedModels
from service.state import State, storage_problem

router = new_router("operations")


class Health(BaseModel):
    """Answer of the liveness check: the process runs."""

    status: Literal["ok"] = "ok"


class Broken(BaseModel):
    """A model that cannot be used, with the reason."""

    model: str
    reason: str


class Readiness(BaseModel):
    """Answer of the readiness check: whether the service can answer requests."""

    status: Literal["ready", "loading", "no-models"]
    degraded: str | None = Field(
        description="Why storage is unavailable, or why models of other replicas cannot be loaded; inference "
        "continues. null if there is no such problem"
    )
    models_loaded: int
    models_broken: int
    broken: list[Broken] = Field(description="Models that are not served")
    failing: list[Broken] = Field(description="Served models whose latest run failed")
    refused: list[Broken] = Field(
        description="Models whose newest version cannot be served; the previous version is still served"
    )


@router.get("/healthz", summary="Check liveness")
@ignores_unknown_parameters
async def healthz() -> Health:
    """Return 200 while the event loop runs."""
    return Health()


@router.get(
    "/readyz",
    summary="Check readiness",
    responses={503: {"model": Readiness, "description": "Still loading, or no model can be served"}},
)
@ignores_unknown_parameters
def readyz(request: Request, response: Response) -> Readiness:  # not async: the check of the storage blocks
    """Return 200 once every model is either warmed up or reported as broken.

    Return 503 before that, and also if no model can be served.
    """
    registry = app_part(request, Registry)
    loaded = len(registry.loaded)
    status: Literal["ready", "loading", "no-models"] = "ready"
    if not registry.ready:
        status = "loading"
    elif not loaded:
        status = "no-models"
    if status != "ready":
        response.status_code = 503
        response.headers["Retry-After"] = "1"
    problems = [entry for entry in registry.entries if entry.problem is not None] if registry.ready else []
    broken = [_broken(entry) for entry in problems if entry.model is None]
    if registry.ready and registry.default_model not in registry.names():
        reason = "it is WEIGHIN_DEFAULT_MODEL, but there is no such model"
        broken.append(Broken(model=registry.default_model, reason=reason))
    shared = app_part(request, SharedModels)
    broken += [
        Broken(model=name, reason=reason)
        for name, reason in shared.refusals.items()
        if name not in registry.names()
    ]
    return Readiness(
        status=status,
        degraded=storage_problem(app_part(request, State), app_part(request, Recorder), shared),
        models_loaded=loaded,
        models_broken=len(broken),
        broken=broken,
        failing=[_broken(entry) for entry in problems if entry.model is not None],
        refused=[
            Broken(model=entry.name, reason=entry.refused)
            for entry in registry.entries
            if entry.refused is not None
        ],
    )


@router.get("/metrics", summary="Get Prometheus metrics", response_class=Response)
@ignores_unknown_parameters
def render(request: Request) -> Response:  # not async: collecting blocks
    """Return counters, gauges and histograms in the Prometheus exposition format. Times are in seconds."""
    return Response(app_part(request, Metrics).render(), media_type=CONTENT_TYPE)


def _broken(entry: ModelEntry) -> Broken:
    return Broken(model=entry.name, reason=entry.problem or "")
