"""GET /dashboard: latency dashboard, which refreshes itself."""

from typing import Annotated

from fastapi import Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.api.body.request import app_part, deadline_for, ignores_unknown_parameters, root_of
from service.api.latency import MachineName, VersionName, check_machine, check_model
from service.api.problems import documented
from service.api.routers import ApiKey, new_router
from service.errors import DeadlineExceeded, InvalidParameter, UnknownModel
from service.latency.query import CURRENT
from service.web.cache import SHARED_FOR_S, DashboardCache
from service.web.site import Site
from service.web.view import (
    DEFAULT_SORT,
    RegimeChoice,
    Since,
    Sort,
    StageChoice,
    View,
    dashboard_page,
)

router = new_router("pages")


class Refresh(APIRoute):
    """Validates each query only once, and answers it from then on without validation.

    Every open page repeats its query every few seconds; validating its parameters would take longer than
    answering it.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        view = app_part(request, DashboardCache).valid_views.get(scope["query_string"])
        if view is None or scope["method"] != "GET":
            await super().handle(scope, receive, send)
        else:
            response = await figures(request, view)
            await response(scope, receive, send)


async def view_of(
    request: Request,
    regime: Annotated[
        RegimeChoice, Query(description="Regime of the latency; empty for the one with the most runs")
    ] = "",
    model: Annotated[str, Query(description="Model to show in detail; empty for all, side by side")] = "",
    stage: Annotated[
        StageChoice, Query(description="Stage; `all` stacks every stage; empty for the total")
    ] = "",
    since: Annotated[Since, Query(description="Length of the window")] = "24h",
    version: VersionName = CURRENT,
    sort: Annotated[Sort, Query(description="Column to sort by; `-` in front: descending")] = DEFAULT_SORT,
    baseline: Annotated[
        str, Query(description="Model that others are compared with; empty for the default")
    ] = "",
    machine: MachineName = None,
) -> View:
    for name in filter(None, (model, baseline)):  # reads the database
        await run_in_threadpool(check_model, request, name)
    if machine:
        await run_in_threadpool(check_machine, request, machine)
    stage = "" if stage == "total" else stage
    view = View(regime, model, stage, since, version, sort, baseline, machine or "")
    if not (model or baseline or machine):  # a name may become unknown, so it is always checked
        app_part(request, DashboardCache).valid_views[request.scope["query_string"]] = view
    return view


@router.get(
    "/dashboard",
    summary="Dashboard page",
    response_class=HTMLResponse,
    responses=documented(UnknownModel, InvalidParameter, DeadlineExceeded),
)
@ignores_unknown_parameters
async def dashboard(request: Request, view: Annotated[View, Depends(view_of)]) -> Response:
    """Show all models side by side: the figures of `GET /latency`, accuracy, size, and the front.

    With `model`, show the details of one model, with charts of `GET /latency/history` and
    `GET /latency/distribution`. The query holds the view, so the URL can be shared.
    """
    cache = app_part(request, DashboardCache)
    rendered = await cache.rendered(view, _base_url(request), deadline_for(request))
    key_needed = app_part(request, ApiKey).secret is not None
    page = dashboard_page(
        view, rendered.models, rendered.regimes, rendered.machines, rendered.html, key_needed=key_needed
    )
    site = app_part(request, Site)
    return site.page("dashboard.html", page, here="/dashboard", root=root_of(request), charts=True)


@ignores_unknown_parameters
async def figures(request: Request, view: Annotated[View, Depends(view_of)]) -> Response:
    """Return the part of the page that is refreshed every few seconds.

    It is cached for two seconds, so that all clients with the same view share it.
    """
    cache = app_part(request, DashboardCache)
    rendered = await cache.rendered(view, _base_url(request), deadline_for(request), max_age_s=SHARED_FOR_S)
    return HTMLResponse(rendered.html, headers={"Cache-Control": "no-store"})


# Only for the page: programs use GET /latency.
router.add_api_route("/dashboard/figures", figures, include_in_schema=False, route_class_override=Refresh)


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")
