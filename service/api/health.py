"""GET /healthz, /readyz and /metrics: for orchestrators and monitors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from service.api.body.request import ignores_unknown_parameters
from service.api.routers import new_router
from service.inference.registry import ModelEntry, Registry
from service.latency.prometheus import CONTENT_TYPE, Metrics


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Broken(BaseModel):
    """A model, and what is wrong with it."""

    model: str
    reason: str


class Readiness(BaseModel):
    """Whether requests will be answered."""

    status: Literal["ready", "loading", "no-models"]
    degraded: str | None = Field(description="Why state cannot be written at the moment; inference goes on")
    models_loaded: int
    models_broken: int
    broken: list[Broken] = Field(description="The models that are not served")
    failing: list[Broken] = Field(description="Models that are served, but whose latest run failed")


def health_router(registry: Registry, metrics: Metrics, state_problem: Callable[[], str | None]) -> APIRouter:
    """The routes for machines that watch over this one."""
    router = new_router("operations")

    @router.get("/healthz", summary="Check liveness")
    @ignores_unknown_parameters
    async def healthz() -> Health:
        """Answers as long as the event loop does."""
        return Health()

    @router.get(
        "/readyz",
        summary="Check readiness",
        responses={503: {"model": Readiness, "description": "Not yet, or there is no model to serve"}},
    )
    @ignores_unknown_parameters
    def readyz(
        response: Response,
    ) -> Readiness:  # not async: finding out whether the disk takes data waits for it
        """200 once every model is loaded and warm (or has said why it is not), 503 before and without any."""
        loaded = len(registry.loaded)
        status: Literal["ready", "loading", "no-models"] = "ready"
        if not registry.ready:
            status = "loading"
        elif not loaded:
            status = "no-models"
        if status != "ready":
            response.status_code = 503
            response.headers["Retry-After"] = "1"
        problems = (
            [entry for entry in registry.entries if entry.problem is not None] if registry.ready else []
        )
        broken = [_broken(entry) for entry in problems if entry.model is None]
        return Readiness(
            status=status,
            degraded=state_problem(),
            models_loaded=loaded,
            models_broken=len(broken),
            broken=broken,
            failing=[_broken(entry) for entry in problems if entry.model is not None],
        )

    @router.get("/metrics", summary="Get Prometheus metrics", response_class=Response)
    @ignores_unknown_parameters
    def render() -> Response:  # not async, as above
        """Counters, gauges and histograms in Prometheus' exposition format; times in seconds."""
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return router


def _broken(entry: ModelEntry) -> Broken:
    return Broken(model=entry.name, reason=entry.problem or "")
