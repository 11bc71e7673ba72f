"""GET /dashboard: what each model costs on this machine, as a page that keeps itself current."""

from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse

from service.api.answers import root_of
from service.api.body.parameters import ignores_unknown_parameters
from service.api.latency import check_model
from service.api.problems import documented
from service.errors import InvalidParameter, UnknownModel
from service.latency.query import Latencies
from service.latency.stages import Regime
from service.web.figures import SHARED_FOR_S, FiguresDesk
from service.web.site import Site
from service.web.view import Since, StageChoice, View, dashboard_page


def dashboard_router(
    site: Site,
    desk: FiguresDesk,
    latencies: Latencies,
    model_names: Callable[[], Sequence[str]],
) -> APIRouter:
    """The page. `model_names` are those of the zoo."""
    router = APIRouter(tags=["pages"])

    async def asked(
        regime: Annotated[Regime, Query(description="Under which load it was measured")] = "live",
        model: Annotated[str, Query(description="A model's name; empty for all")] = "",
        stage: Annotated[StageChoice, Query(description="A stage, or all; the charts show one")] = "total",
        since: Annotated[Since, Query(description="How far back")] = "24h",
    ) -> View:
        if model:  # whether it is known is asked of the database
            await run_in_threadpool(check_model, latencies, model_names(), model)
        return View(regime, model, stage, since)

    @router.get(
        "/dashboard",
        summary="What does each model cost, as a page?",
        response_class=HTMLResponse,
        responses=documented(UnknownModel, InvalidParameter),
    )
    @ignores_unknown_parameters
    async def dashboard(request: Request, view: Annotated[View, Depends(asked)]) -> Response:
        """The figures of `GET /latency` as a table, and charts of `GET /latency/history`,
        `GET /latency/distribution` and `GET /recommend`. The query is the view, so that it can be shared.
        """
        found = await desk.rendered(view, _base_url(request))
        page = dashboard_page(view, found.models, found.html)
        return site.page("dashboard.html", page, here="/dashboard", root=root_of(request), charts=True)

    # For the page alone: programs ask GET /latency.
    @router.get("/dashboard/figures", include_in_schema=False)
    @ignores_unknown_parameters
    async def figures(request: Request, view: Annotated[View, Depends(asked)]) -> Response:
        """The part that changes, which the page fetches every few seconds: up to two seconds old, so that all
        who look at the same share it."""
        found = await desk.rendered(view, _base_url(request), at_most_old_s=SHARED_FOR_S)
        return HTMLResponse(found.html, headers={"Cache-Control": "no-store"})

    return router


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")
