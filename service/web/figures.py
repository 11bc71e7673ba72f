"""The part of the dashboard that changes: worked out once for all who look at the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import orjson
import structlog
from markupsafe import Markup

from models.zoo.statistics import MIN_SAMPLES
from service.latency.query import Latencies, Window
from service.latency.series import Figures as Recorded
from service.latency.stages import STAGES, Stage
from service.web.chart_data import as_json, medians, over_time, parts, shape, traffic
from service.web.site import Site, explained
from service.web.table import Group, table
from service.web.view import WINDOWS, Choice, StageChoice, View, span_for

_log = structlog.get_logger(__name__)

SHARED_FOR_S = 2.0
"""So old may be what a page that refreshes itself gets: a wall of dashboards costs little more than one."""

FIRST_VIEWS = tuple(View("live", "", "total", since) for since in ("24h", "7d", "30d"))
"""What is likely to be looked at first after a start, the page's own default before the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Everything that `figures.html` refers to, and nothing else (a test compares the two)."""

    degraded: str | None = field(metadata=explained("Why state cannot be written or not all of it be read"))
    begin: str = field(metadata=explained("Begin of the window, UTC"))
    end: str = field(metadata=explained("End of the window, UTC"))
    groups: Sequence[Group] = field(metadata=explained("The table, by model"))
    other_stages: Sequence[Choice] = field(
        metadata=explained("Where the stage asked for has no runs: the stages that have, each with its URL")
    )
    needed: int = field(metadata=explained("Samples from which on no percentile is withheld"))
    charted: str = field(metadata=explained("The model that the charts of one model are of"))
    charts: str = field(metadata=explained("What the charts draw, as JSON"))
    base_url: str = field(metadata=explained("Where this service is reached, without a slash at the end"))
    latency_url: str = field(metadata=explained("The table's figures as JSON"))
    history_url: str = field(metadata=explained("The points of the charts over time as JSON"))
    distribution_url: str = field(metadata=explained("The distribution as JSON"))


@dataclass(frozen=True, slots=True)
class Rendered:
    """`figures.html` filled in, and the models that can be chosen: those served, then those recorded."""

    html: Markup
    models: tuple[str, ...]


class FiguresDesk:
    """Renders `figures.html`, one at a time on a thread of its own, and hands it out to all who ask."""

    def __init__(
        self,
        site: Site,
        latencies: Latencies,
        model_names: Callable[[], Sequence[str]],
        default_model: str,
        state_problem: Callable[[], str | None],
        newest_benchmark: Callable[[], str | None],
    ) -> None:
        """`newest_benchmark`: the id of the newest measurement, which tells pages to ask for it again."""
        self._site = site
        self._latencies = latencies
        self._model_names = model_names
        self._default_model = default_model
        self._state_problem = state_problem
        self._newest_benchmark = newest_benchmark
        # One thread beside the event loop and the pool: requests go first.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weighin-figures")
        self._known: dict[tuple[View, str], tuple[float, Rendered]] = {}
        self._ahead: list[Future[Rendered]] = []

    async def rendered(self, view: View, base_url: str, *, at_most_old_s: float = 0.0) -> Rendered:
        """The figures of a view, at most so old."""
        since = time.monotonic() - at_most_old_s
        known = self._fresh(view, base_url, since)
        if known is not None:  # without a way to the thread and back
            return known
        for rendering in self._ahead:
            rendering.cancel()
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._rendered, view, base_url, since
        )

    def warm_up(self) -> Sequence[Future[Rendered]]:
        """Render what is likely to be looked at first, in the background, so that the closed buckets of a
        long history are merged before somebody waits for them. Returns at once; who asks goes first: what has
        not begun by then is cancelled."""
        self._ahead = [
            self._thread.submit(self._rendered, view, "", time.monotonic()) for view in FIRST_VIEWS
        ]
        for rendering in self._ahead:
            rendering.add_done_callback(_tell)
        return self._ahead

    def close(self) -> None:
        """Finish the rendering under way, drop those that wait."""
        self._thread.shutdown(cancel_futures=True)

    def _fresh(self, view: View, base_url: str, since: float) -> Rendered | None:
        known = self._known.get((view, base_url))
        return known[1] if known is not None and known[0] >= since else None

    def _rendered(self, view: View, base_url: str, since: float) -> Rendered:
        begun = time.monotonic()
        known = self._fresh(view, base_url, since)
        if known is not None:
            return known
        names = list(self._model_names())
        window, recorded = self._latencies.window(
            view.regime, self._latencies.now() - WINDOWS[view.since].length_s
        )
        names += sorted({name for name, _ in recorded.summaries} - set(names))
        figures = self._figures(view, base_url, names, window, recorded)
        found = Rendered(self._site.render("figures.html", figures), tuple(names))
        self._known = {key: each for key, each in self._known.items() if each[0] > begun - SHARED_FOR_S}
        self._known[view, base_url] = (begun, found)
        return found

    def _figures(
        self, view: View, base_url: str, names: Sequence[str], window: Window, recorded: Recorded
    ) -> Figures:
        span, now = WINDOWS[view.since], self._latencies.now()
        charted, stage = view.model or self._busiest(recorded), _charted_stage(view.stage, recorded)
        since = now - span.length_s
        of_all = self._latencies.history(view.regime, since, span.overview_s, stage=stage)
        if of_all[1]:
            since = max(since, of_all[1][0][0])
            fitting = span_for(now - since, span)
            if fitting != span:
                span = fitting
                of_all = self._latencies.history(view.regime, since, span.overview_s, stage=stage)
        of_one = self._latencies.history(view.regime, since, span.step_s, model=charted, stage=stage)
        of_parts = self._latencies.history(view.regime, since, span.overview_s, model=charted)
        _, distribution = self._latencies.distribution(view.regime, since, charted, stage)
        charts = {
            **as_json(
                ("over_time", over_time(of_one, charted, stage)),
                ("parts", parts(of_parts, charted)),
                ("traffic", traffic(of_all, view.model, stage)),
                ("shape", shape(distribution)),
            ),
            "at": window.end,
            "model": charted,
            "stage": stage,
            "regime": view.regime,
            "window": WINDOWS[view.since].text,
            "benchmark": self._newest_benchmark(),
        }
        root = urlsplit(base_url).path
        one: dict[str, str] = {"model": charted, "stage": stage}
        return Figures(
            degraded=self._state_problem() or window.degraded,
            begin=_utc(window.start).strftime("%Y-%m-%d %H:%M"),
            end=_utc(window.end).strftime("%Y-%m-%d %H:%M:%S"),
            groups=table(
                recorded,
                names,
                view.model,
                "" if view.stage == "all" else view.stage,
                medians(of_all, stage) if view.stage in ("all", stage) else {},
            ),
            other_stages=_other_stages(view, recorded),
            needed=max(MIN_SAMPLES.values()),
            charted=charted,
            charts=orjson.dumps(charts).decode(),
            base_url=base_url,
            latency_url=view.url(f"{root}/latency"),
            history_url=view.url(f"{root}/latency/history", **one, step=f"{span.step_s // 60}m"),
            distribution_url=view.url(f"{root}/latency/distribution", **one),
        )

    def _busiest(self, recorded: Recorded) -> str:
        """The default model, or the one with the most runs where it has none."""
        counts: dict[str, int] = {}
        for (name, _), summary in recorded.summaries.items():
            counts[name] = max(counts.get(name, 0), summary.count)
        if self._default_model in counts or not counts:
            return self._default_model
        return max(counts, key=lambda name: counts[name])


def _other_stages(view: View, recorded: Recorded) -> list[Choice]:
    """The stages to offer where the one asked for has no runs: comparisons and searches have no total."""
    counts = {stage for name, stage in recorded.summaries if view.model in ("", name)}
    if view.stage == "all" or view.stage in counts:
        return []
    offered: list[StageChoice] = [stage for stage in STAGES if stage in counts]
    if offered:
        offered.append("all")
    return [Choice(replace(view, stage=stage).page_url(), stage) for stage in offered]


def _charted_stage(asked: StageChoice, recorded: Recorded) -> Stage:
    """The stage that the charts are of and name: inference where no total was recorded."""
    if asked != "all" and asked != "total":
        return asked
    stages = {stage for _, stage in recorded.summaries}
    return "inference" if stages and "total" not in stages else "total"


def _tell(warming: Future[Rendered]) -> None:
    if not warming.cancelled() and (error := warming.exception()) is not None:
        _log.warning("the dashboard could not be rendered ahead", exc_info=error)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
