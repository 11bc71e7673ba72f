"""The refreshed part of the dashboard: its view model, and a cache that renders it once for all clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from urllib.parse import urlsplit

import orjson
import structlog
from markupsafe import Markup

from models.zoo.statistics import MIN_SAMPLES
from service.latency.query import ALL, Latencies, Window
from service.latency.series import Figures as Recorded
from service.latency.stages import STAGES, Stage
from service.web.chart_data import as_json, medians, over_time, parts, shape, traffic
from service.web.site import Site, explained
from service.web.table import Group, table
from service.web.view import WINDOWS, Choice, StageChoice, View, span_for

_log = structlog.get_logger(__name__)

SHARED_FOR_S = 2.0
"""Maximum age of figures for page refreshes, so that many open dashboards cost little more than one."""

_MOST_VERSIONS = 10

FIRST_VIEWS = tuple(View("live", "", "total", since) for since in ("24h", "7d", "30d"))
"""Views to render in advance at start-up; the page's default view first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The variables of `figures.html`; a test compares the two."""

    degraded: str | None = field(
        metadata=explained("Why state cannot be written or read completely; None if it can")
    )
    begin: str = field(metadata=explained("Start of the window, UTC"))
    end: str = field(metadata=explained("End of the window, UTC"))
    groups: Sequence[Group] = field(metadata=explained("The table, by model"))
    other_stages: Sequence[Choice] = field(
        metadata=explained("Stages that have runs, with their URLs, if the selected stage has none")
    )
    other_versions: Sequence[Choice] = field(
        metadata=explained("Versions of models with runs that are not shown, with their URLs; at most ten")
    )
    all_versions: str = field(metadata=explained("URL of the same view with all versions"))
    min_runs: str = field(metadata=explained("Minimum number of runs of each percentile, as text"))
    charted: str = field(metadata=explained("Model of the charts that show one model"))
    charts: str = field(metadata=explained("Chart data as JSON"))
    base_url: str = field(metadata=explained("Base URL of this service without a trailing slash"))
    latency_url: str = field(metadata=explained("URL of the table's figures as JSON"))
    history_url: str = field(metadata=explained("URL of the charts over time as JSON"))
    distribution_url: str = field(metadata=explained("URL of the distribution as JSON"))


@dataclass(frozen=True, slots=True)
class Rendered:
    """Rendered `figures.html`, and the selectable models: served ones, then others with recorded runs."""

    html: Markup
    models: tuple[str, ...]


class DashboardCache:
    """Renders `figures.html` on one background thread and shares the result between clients."""

    def __init__(
        self,
        site: Site,
        latencies: Latencies,
        model_names: Callable[[], Sequence[str]],
        default_model: str,
        state_problem: Callable[[], str | None],
        newest_benchmark: Callable[[], str | None],
        assumed_facts: Callable[[], Mapping[str, tuple[str, ...]]] = dict,
        detectors: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`newest_benchmark` returns the newest benchmark's id; pages reload its chart when it changes.

        `assumed_facts` returns, by model, the assumed facts on which predictions depend; `detectors` the
        names of the detectors among the models.
        """
        self._site = site
        self._latencies = latencies
        self._model_names = model_names
        self._default_model = default_model
        self._state_problem = state_problem
        self._newest_benchmark = newest_benchmark
        self._assumed_facts = assumed_facts
        self._detectors = detectors
        # One thread, apart from the event loop and the pool, so that rendering cannot delay inference.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weighin-figures")
        self._cache: dict[tuple[View, str], tuple[float, Rendered]] = {}
        self._in_advance: list[Future[Rendered]] = []

    async def rendered(self, view: View, base_url: str, *, max_age_s: float = 0.0) -> Rendered:
        """Return the figures of a view, from the cache if they are at most `max_age_s` seconds old."""
        since = time.monotonic() - max_age_s
        cached = self._fresh(view, base_url, since)
        if cached is not None:  # saves the hop to the thread
            return cached
        for rendering in self._in_advance:
            rendering.cancel()
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._rendered, view, base_url, since
        )

    def warm_up(self) -> Sequence[Future[Rendered]]:
        """Render FIRST_VIEWS in the background, so that a long history is merged before the first request.

        Returns at once. The first request cancels the renderings that have not started.
        """
        self._in_advance = [
            self._thread.submit(self._rendered, view, "", time.monotonic()) for view in FIRST_VIEWS
        ]
        for rendering in self._in_advance:
            rendering.add_done_callback(_log_failure)
        return self._in_advance

    def close(self) -> None:
        """Wait for the current rendering and cancel queued ones."""
        self._thread.shutdown(cancel_futures=True)

    def _fresh(self, view: View, base_url: str, since: float) -> Rendered | None:
        entry = self._cache.get((view, base_url))
        return entry[1] if entry is not None and entry[0] >= since else None

    def _rendered(self, view: View, base_url: str, since: float) -> Rendered:
        started = time.monotonic()
        cached = self._fresh(view, base_url, since)
        if cached is not None:
            return cached
        names = list(self._model_names())
        window, recorded = self._latencies.window(
            view.regime, self._latencies.now() - WINDOWS[view.since].length_s, version=view.version
        )
        names += sorted({name for name, _ in recorded.summaries} - set(names))
        figures = self._figures(view, base_url, names, window, recorded)
        rendered = Rendered(self._site.render("figures.html", figures), tuple(names))
        self._cache = {key: entry for key, entry in self._cache.items() if entry[0] > started - SHARED_FOR_S}
        self._cache[view, base_url] = (started, rendered)
        return rendered

    def _figures(
        self, view: View, base_url: str, names: Sequence[str], window: Window, recorded: Recorded
    ) -> Figures:
        span, now = WINDOWS[view.since], self._latencies.now()
        charted, stage = view.model or self._busiest(recorded), _charted_stage(view.stage, recorded)
        since = now - span.length_s
        left_out = self._latencies.left_out(view.regime, since, view.model or None, view.version)
        history = partial(self._latencies.history, view.regime, version=view.version)
        all_models_history = history(since, span.overview_s, stage=stage)
        if all_models_history[1]:
            since = max(since, all_models_history[1][0][0])
            fitting = span_for(now - since, span)
            if fitting != span:
                span = fitting
                all_models_history = history(since, span.overview_s, stage=stage)
        charted_history = history(since, span.step_s, model=charted, stage=stage)
        stages_history = history(since, span.overview_s, model=charted)
        _, distribution = self._latencies.distribution(view.regime, since, charted, stage, view.version)
        charts = {
            **as_json(
                ("over_time", over_time(charted_history, charted, stage)),
                ("parts", parts(stages_history, charted)),
                ("traffic", traffic(all_models_history, view.model, stage)),
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
        charted_query: dict[str, str] = {"model": charted, "stage": stage}
        return Figures(
            degraded=self._state_problem() or window.degraded,
            begin=_utc(window.start).strftime("%Y-%m-%d %H:%M"),
            end=_utc(window.end).strftime("%Y-%m-%d %H:%M:%S"),
            groups=table(
                recorded,
                names,
                view.model,
                "" if view.stage == "all" else view.stage,
                medians(all_models_history, stage) if view.stage in ("all", stage) else {},
                self._assumed_facts(),
                self._detectors(),
            ),
            other_stages=_other_stages(view, recorded),
            other_versions=[
                Choice(replace(view, model=name, version=version[:12]).page_url(), f"{name} {version[:12]}")
                for name, version in left_out[:_MOST_VERSIONS]
            ],
            all_versions=replace(view, version=ALL).page_url(),
            min_runs=", ".join(
                f"p{round(100 * fraction)} needs {count}" for fraction, count in MIN_SAMPLES.items()
            ),
            charted=charted,
            charts=orjson.dumps(charts).decode(),
            base_url=base_url,
            latency_url=view.url(f"{root}/latency"),
            history_url=view.url(f"{root}/latency/history", **charted_query, step=f"{span.step_s // 60}m"),
            distribution_url=view.url(f"{root}/latency/distribution", **charted_query),
        )

    def _busiest(self, recorded: Recorded) -> str:
        """Return the default model, or the one with the most runs if the default has none."""
        counts: dict[str, int] = {}
        for (name, _), summary in recorded.summaries.items():
            counts[name] = max(counts.get(name, 0), summary.count)
        if self._default_model in counts or not counts:
            return self._default_model
        return max(counts, key=lambda name: counts[name])


def _other_stages(view: View, recorded: Recorded) -> list[Choice]:
    """Return the stages with runs if the selected one has none: comparisons and searches have no total."""
    recorded_stages = {stage for name, stage in recorded.summaries if view.model in ("", name)}
    if view.stage == "all" or view.stage in recorded_stages:
        return []
    offered: list[StageChoice] = [stage for stage in STAGES if stage in recorded_stages]
    if offered:
        offered.append("all")
    return [Choice(replace(view, stage=stage).page_url(), stage) for stage in offered]


def _charted_stage(choice: StageChoice, recorded: Recorded) -> Stage:
    """Return the stage to chart: `choice`; for all and total, inference if no total was recorded."""
    if choice != "all" and choice != "total":
        return choice
    stages = {stage for _, stage in recorded.summaries}
    return "inference" if stages and "total" not in stages else "total"


def _log_failure(rendering: Future[Rendered]) -> None:
    if not rendering.cancelled() and (error := rendering.exception()) is not None:
        _log.warning("dashboard: rendering in advance failed", exc_info=error)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
