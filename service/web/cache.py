"""Cache of the dashboard: renders its refreshed part once for all clients, on a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import structlog
from cachetools import LRUCache
from markupsafe import Markup

from service.inference.pool import Deadline
from service.latency.query import Latencies
from service.latency.stages import Regime
from service.web.catalogue import Catalogue
from service.web.figures import FiguresBuilder
from service.web.site import Site
from service.web.view import Activity, View

_log = structlog.get_logger(__name__)

SHARED_FOR_S = 2.0
"""Maximum age of figures for page refreshes, so that many open dashboards cost little more than one."""

FIRST_VIEWS = tuple(View(since=since) for since in ("24h", "7d", "30d"))
"""Views that are rendered in advance at start-up. The first is the page's default view."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Rendered `figures.html`, and the options of the view's form.

    `models`: the served models, then other models with recorded runs. `machines`: the machines with recorded
    runs. `regimes`: for each regime, its numbers of runs and of errors.
    """

    html: Markup
    models: tuple[str, ...]
    machines: tuple[str, ...]
    regimes: Mapping[Regime, Activity]


class DashboardCache:
    """Renders `figures.html` on one background thread and shares the result between clients."""

    def __init__(
        self,
        site: Site,
        latencies: Latencies,
        catalogue: Catalogue,
        state_problem: Callable[[], str | None],
    ) -> None:
        """`state_problem` returns the reason why state cannot be written, or None."""
        self._site = site
        self._catalogue = catalogue
        self.valid_views: LRUCache[bytes, View] = LRUCache(64)
        """Views of queries that were found valid, by query string."""
        self._builder = FiguresBuilder(latencies, catalogue, state_problem)
        # One thread, apart from the event loop and the pool, so that rendering cannot delay inference.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weighin-figures")
        self._cache: dict[tuple[View, str], tuple[float, Rendered]] = {}
        self._in_advance: list[Future[Rendered]] = []

    async def rendered(
        self, view: View, base_url: str, deadline: Deadline, *, max_age_s: float = 0.0
    ) -> Rendered:
        """Return the figures of a view, from the cache if they are at most `max_age_s` seconds old.

        Raises DeadlineExceeded if the rendering has not begun at the deadline, and ClientGone if the client
        disconnects. A rendering that has not begun by then is dropped, so that the thread renders only for
        clients that wait.
        """
        since = time.monotonic() - max_age_s
        cached = self._fresh(view, base_url, since)
        if cached is not None:  # saves the switch to the thread
            return cached
        for rendering in self._in_advance:
            rendering.cancel()
        return await deadline.wait_for(self._thread.submit(self._rendered, view, base_url, since))

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
        """Wait for the current rendering and for benchmarks being read; cancel queued renderings."""
        self._thread.shutdown(cancel_futures=True)
        self._catalogue.close()

    def _fresh(self, view: View, base_url: str, since: float) -> Rendered | None:
        entry = self._cache.get((view, base_url))
        return entry[1] if entry is not None and entry[0] >= since else None

    def _rendered(self, view: View, base_url: str, since: float) -> Rendered:
        started = time.monotonic()
        cached = self._fresh(view, base_url, since)
        if cached is not None:
            return cached
        built = self._builder.build(view, base_url)
        html = self._site.render("figures.html", built.figures)
        rendered = Rendered(html, built.models, built.machines, built.regimes)
        self._cache = {key: entry for key, entry in self._cache.items() if entry[0] > started - SHARED_FOR_S}
        self._cache[view, base_url] = (started, rendered)
        return rendered


def _log_failure(rendering: Future[Rendered]) -> None:
    if not rendering.cancelled() and (error := rendering.exception()) is not None:
        _log.warning("dashboard: rendering in advance failed", exc_info=error)
