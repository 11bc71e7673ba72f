"""GET /v2/health/live, /v2/health/ready and /v2/models/{name}/ready: health of the server and its models."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from service import errors
from service.api.body.request import app_part, ignores_unknown_parameters
from service.api.problems import RETRY_AFTER_S, documented
from service.api.routers import new_router
from service.api.v2.metadata import served_entry
from service.api.v2.schemas import ModelReady, ServerLive, ServerReady
from service.inference.registry import Registry

router = new_router("inference protocol", protocol=True)


@router.get("/v2/health/live", summary="Check whether the server is live")
@ignores_unknown_parameters
async def live() -> ServerLive:
    """Return 200 while the event loop runs."""
    return ServerLive(live=True)


@router.get(
    "/v2/health/ready",
    summary="Check whether the server is ready",
    responses={503: {"model": ServerReady, "description": "Still loading, or no model can be served"}},
)
@ignores_unknown_parameters
async def ready(request: Request, response: Response) -> ServerReady:
    """Return the status of `GET /readyz`: 200 once every model is either loaded or known to be broken."""
    registry = app_part(request, Registry)
    is_ready = registry.ready and bool(registry.loaded)
    if not is_ready:
        _refuse(response)
    return ServerReady(ready=is_ready)


_RESPONSES: dict[int | str, dict[str, Any]] = {
    503: {"model": ModelReady, "description": "The model is still loading, or it cannot be served"},
    **documented(errors.UnknownModel, protocol=True),
}


@router.get(
    "/v2/models/{name}/versions/{version}/ready",
    summary="Check whether a version of a model is ready",
    responses=_RESPONSES,
)
@router.get("/v2/models/{name}/ready", summary="Check whether a model is ready", responses=_RESPONSES)
@ignores_unknown_parameters
async def model_ready(
    request: Request, response: Response, name: str, version: str | None = None
) -> ModelReady:
    """Return 200 if the model is loaded, and 503 if it is not."""
    is_ready = served_entry(request, name, version).model is not None
    if not is_ready:
        _refuse(response)
    return ModelReady(name=name, ready=is_ready)


def _refuse(response: Response) -> None:
    response.status_code = 503
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
