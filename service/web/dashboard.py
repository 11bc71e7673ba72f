"""GET /dashboard: what each model costs on this machine, as a page."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from service.api.problems import documented
from service.errors import InvalidParameter, UnknownModel
from service.latency.answers import Latencies, Window
from service.latency.figures import Figures
from service.stages import REGIMES, STAGES, Regime, Stage
from service.web.chart import SIDE, Chart, line_chart
from service.web.page import Choice, DashboardPage, table
from service.web.site import Site

Since = Literal["15m", "1h", "6h", "24h", "7d", "30d", "365d"]

WINDOWS: dict[Since, tuple[str, int, str, int]] = {
    "15m": ("15 minutes", 900, "1m", 60),
    "1h": ("1 hour", 3600, "1m", 60),
    "6h": ("6 hours", 6 * 3600, "5m", 300),
    "24h": ("24 hours", 24 * 3600, "15m", 900),
    "7d": ("7 days", 7 * 86400, "3h", 3 * 3600),
    "30d": ("30 days", 30 * 86400, "1d", 86400),
    "365d": ("1 year", 365 * 86400, "1d", 86400),
}
"""What is shown, seconds, and the step of the chart as the API writes it and in seconds."""


def dashboard_router(
    site: Site,
    latencies: Latencies,
    model_names: Callable[[], Sequence[str]],
    default_model: str,
    state_problem: Callable[[], str | None],
) -> APIRouter:
    """The page. `model_names` are those of the zoo; `default_model` is charted first."""
    router = APIRouter(tags=["pages"])

    # Not async: the database is read, which must not hold up the event loop.
    @router.get(
        "/dashboard",
        summary="What does each model cost, as a page?",
        response_class=HTMLResponse,
        responses=documented(UnknownModel, InvalidParameter),
    )
    def dashboard(
        request: Request,
        regime: Annotated[Regime, Query(description="Under which load it was measured")] = "live",
        model: Annotated[str, Query(description="A model's name; empty for all")] = "",
        stage: Annotated[Stage | Literal[""], Query(description="A stage; empty for all")] = "",
        since: Annotated[Since, Query(description="How far back")] = "24h",
    ) -> Response:
        """The figures of `GET /latency` as a table and those of `GET /latency/history` as a chart."""
        names = list(model_names())
        if model and model not in names and not latencies.knows(model):
            raise UnknownModel(
                f"no model {model[:100]!r} is served or recorded; there are: {', '.join(names)}"
            )
        shown, length_s, step_text, step_s = WINDOWS[since]
        window, figures = latencies.window(regime, latencies.now() - length_s)
        names += sorted({name for name, _ in figures.summaries} - set(names))
        charted: tuple[str, Stage] = (model or default_model, stage or "total")
        history = latencies.history(
            regime, latencies.now() - length_s, step_s, model=charted[0], stage=charted[1]
        )
        asked = {"model": model, "stage": stage, "regime": regime, "since": since}
        page = DashboardPage(
            base_url=str(request.base_url).rstrip("/"),
            degraded=state_problem() or window.lacking,
            regimes=[Choice(name, name) for name in REGIMES],
            models=[Choice("", "all"), *(Choice(name, name) for name in names)],
            stages=[Choice("", "all"), *(Choice(name, name) for name in STAGES)],
            windows=[Choice(name, text) for name, (text, *_) in WINDOWS.items()],
            regime=regime,
            model=model,
            stage=stage,
            since=since,
            begin=_utc(window.start).strftime("%Y-%m-%d %H:%M"),
            end=_utc(window.end).strftime("%Y-%m-%d %H:%M:%S"),
            groups=table(figures, names, model, stage),
            chart=_chart(*history, charted),
            chart_title=f"{charted[0]}, {charted[1]}, {regime}, last {shown}",
            chart_step=step_text,
            chart_side=SIDE,
            latency_url=_url("/latency", asked),
            history_url=_url(
                "/latency/history", {**asked, "model": charted[0], "stage": charted[1], "step": step_text}
            ),
        )
        return site.page("dashboard.html", page, here="/dashboard")

    return router


def _chart(window: Window, points: Sequence[tuple[int, Figures]], charted: tuple[str, Stage]) -> Chart | None:
    """p50 and p95 of one model and stage; a step in which nothing was recorded breaks the lines."""
    found = {start: summary for start, figures in points if (summary := figures.summaries.get(charted))}
    step_s = window.resolution_s
    starts = range(window.start, math.floor(window.end) + 1, step_s)
    times = [_utc(start + step_s / 2) for start in starts]
    series = {
        "p50": [found[start].p50_ms if start in found else None for start in starts],
        "p95": [found[start].p95_ms if start in found else None for start in starts],
    }
    return line_chart(times, series, _utc(window.start), _utc(window.end))


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _url(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode({name: value for name, value in query.items() if value})}"
