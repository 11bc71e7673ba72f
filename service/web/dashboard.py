"""GET /dashboard: latency dashboard, which refreshes itself."""

from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse

from service.api.body.request import ignores_unknown_parameters, root_of
from service.api.latency import VersionName, check_model
from service.api.problems import documented
from service.api.routers import new_router
from service.errors import InvalidParameter, UnknownModel
from service.latency.query import CURRENT, Latencies
from service.latency.stages import Regime
from service.web.figures import SHARED_FOR_S, DashboardCache
from service.web.site import Site
from service.web.view import Since, StageChoice, View, dashboard_page


def dashboard_router(
    site: Site,
    cache: DashboardCache,
    latencies: Latencies,
    model_names: Callable[[], Sequence[str]],
) -> APIRouter:
    """Build the router. `model_names` returns the names of the served models."""
    router = new_router("pages")

    async def view_of(
        regime: Annotated[Regime, Query(description="Load under which the latency was recorded")] = "live",
        model: Annotated[str, Query(description="Model name; empty for all")] = "",
        stage: Annotated[StageChoice, Query(description="Stage, or all; the charts show one")] = "total",
        since: Annotated[Since, Query(description="Length of the window")] = "24h",
        version: VersionName = CURRENT,
    ) -> View:
        if model:  # reads the database
            await run_in_threadpool(check_model, latencies, model_names(), model)
        return View(regime, model, stage, since, version)

    @router.get(
        "/dashboard",
        summary="Dashboard page",
        response_class=HTMLResponse,
        responses=documented(UnknownModel, InvalidParameter),
    )
    @ignores_unknown_parameters
    async def dashboard(request: Request, view: Annotated[View, Depends(view_of)]) -> Response:
        """Show the figures of `GET /latency` as a table, and charts of `GET /latency/history`,
        `GET /latency/distribution` and `GET /recommend`. The query holds the view, so its URL can be shared.
        """
        rendered = await cache.rendered(view, _base_url(request))
        page = dashboard_page(view, rendered.models, rendered.html)
        return site.page("dashboard.html", page, here="/dashboard", root=root_of(request), charts=True)

    # Only for the page: programs use GET /latency.
    @router.get("/dashboard/figures", include_in_schema=False)
    @ignores_unknown_parameters
    async def figures(request: Request, view: Annotated[View, Depends(view_of)]) -> Response:
        """Return the part of the page that is refreshed every few seconds.

        It is cached for two seconds, so that all clients with the same view share it.
        """
        rendered = await cache.rendered(view, _base_url(request), max_age_s=SHARED_FOR_S)
        return HTMLResponse(rendered.html, headers={"Cache-Control": "no-store"})

    return router


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")
