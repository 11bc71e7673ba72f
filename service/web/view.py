"""The dashboard's view: regime, model, stage and window, as in its URL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlencode

from markupsafe import Markup

from service.latency.query import ALL, CURRENT
from service.latency.stages import REGIMES, STAGES, Regime, Stage
from service.web.site import explained

Since = Literal["15m", "1h", "6h", "24h", "7d", "30d", "365d"]

StageChoice = Stage | Literal["all"]


@dataclass(frozen=True, slots=True)
class Span:
    """A window with its display text and its length in seconds.

    `step_s` is the step of charts of one model and stage, `overview_s` that of charts of several, which is
    coarser where finer steps would have to be merged from too many minute buckets.
    """

    text: str
    length_s: int
    step_s: int
    overview_s: int


WINDOWS: dict[Since, Span] = {
    "15m": Span("15 minutes", 900, 60, 60),
    "1h": Span("1 hour", 3600, 60, 60),
    "6h": Span("6 hours", 6 * 3600, 300, 300),
    "24h": Span("24 hours", 24 * 3600, 900, 3600),
    "7d": Span("7 days", 7 * 86400, 3600, 3600),
    "30d": Span("30 days", 30 * 86400, 86400, 86400),
    "365d": Span("1 year", 365 * 86400, 86400, 86400),
}
"""Selectable windows, by their value in the API."""


def span_for(length_s: float, most: Span) -> Span:
    """Return the shortest window of at least `length_s`, up to `most`: a short history gets fine steps."""
    return next((span for span in WINDOWS.values() if length_s <= span.length_s <= most.length_s), most)


@dataclass(frozen=True, slots=True)
class View:
    """The selected regime, model, stage, window and versions; an empty model means all.

    `version`: the model files' versions as in `GET /latency`: `current`, `all` or the beginning of one.
    """

    regime: Regime
    model: str
    stage: StageChoice
    since: Since
    version: str = CURRENT

    def url(self, path: str, **more: str) -> str:
        """Return `path` with this view and `more` as its query, without empty values."""
        stage = "" if self.stage == "all" else self.stage
        version = "" if self.version == CURRENT else self.version
        parameters = {"model": self.model, "stage": stage, "regime": self.regime, "since": self.since}
        parameters |= {"version": version} | more
        return f"{path}?{urlencode({name: value for name, value in parameters.items() if value})}"

    def page_url(self) -> str:
        """Return the page's relative URL with this view; unlike `url`, it keeps `stage=all`."""
        return self.url("", stage=self.stage)


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of a select: its value in the URL and its text."""

    value: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DashboardPage:
    """The variables of `dashboard.html`; a test compares the two."""

    regimes: Sequence[Choice] = field(metadata=explained("Options of the regime"))
    models: Sequence[Choice] = field(metadata=explained("Options of the model; the empty value means all"))
    stages: Sequence[Choice] = field(metadata=explained("Options of the stage, including `all`"))
    windows: Sequence[Choice] = field(metadata=explained("Options of the window"))
    versions: Sequence[Choice] = field(metadata=explained("Options of the version"))
    regime: str = field(metadata=explained("Selected regime"))
    model: str = field(metadata=explained("Selected model, empty for all"))
    stage: str = field(metadata=explained("Selected stage, or `all`"))
    since: str = field(metadata=explained("Selected window, as in `GET /latency`"))
    version: str = field(metadata=explained("Selected version, as in `GET /latency`"))
    figures: Markup = field(
        metadata=explained("Rendered `figures.html`, which the page refreshes every few seconds")
    )


def dashboard_page(view: View, names: Sequence[str], figures: Markup) -> DashboardPage:
    """Build the page around `figures`. `names` are the selectable models."""
    if view.model and view.model not in names:
        names = [*names, view.model]
    return DashboardPage(
        regimes=[Choice(name, name) for name in REGIMES],
        models=[Choice("", "all"), *(Choice(name, name) for name in names)],
        stages=[Choice(name, name) for name in ("all", *STAGES)],
        windows=[Choice(name, span.text) for name, span in WINDOWS.items()],
        versions=_versions(view.version),
        regime=view.regime,
        model=view.model,
        stage=view.stage,
        since=view.since,
        version=view.version,
        figures=figures,
    )


def _versions(selected: str) -> list[Choice]:
    choices = [Choice(CURRENT, CURRENT), Choice(ALL, ALL)]
    return choices if selected in (CURRENT, ALL) else [*choices, Choice(selected, selected[:12])]
