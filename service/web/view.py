"""What a dashboard looks at: regime, model, stage and window, as its URL says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlencode

from markupsafe import Markup

from service.latency.stages import REGIMES, STAGES, Regime, Stage
from service.web.site import explained

Since = Literal["15m", "1h", "6h", "24h", "7d", "30d", "365d"]

StageChoice = Stage | Literal["all"]


@dataclass(frozen=True, slots=True)
class Span:
    """A window: how it is called, and its length in seconds.

    `step_s` is that of the percentiles of one model and stage; `overview_s` of what is shown of several,
    coarser where finer steps of so many would have to be merged from minutes.
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
"""The windows that can be chosen, as the API writes them."""


def span_for(length_s: float, most: Span) -> Span:
    """The shortest window of that length or more, so that a service which is young has fine steps too."""
    return next((span for span in WINDOWS.values() if length_s <= span.length_s <= most.length_s), most)


@dataclass(frozen=True, slots=True)
class View:
    """What is looked at; an empty model means all."""

    regime: Regime
    model: str
    stage: StageChoice
    since: Since

    def url(self, path: str, **more: str) -> str:
        """The path with this view as its query, and `more`; what is empty is left out."""
        stage = "" if self.stage == "all" else self.stage
        asked = {"model": self.model, "stage": stage, "regime": self.regime, "since": self.since} | more
        return f"{path}?{urlencode({name: value for name, value in asked.items() if value})}"

    def page_url(self) -> str:
        """The page's URL with this view, relative to the page and with `stage=all` where that is chosen."""
        return self.url("", stage=self.stage)


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of a form's list: what the URL says and what the reader sees."""

    value: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DashboardPage:
    """Everything that `dashboard.html` refers to beside the fields of Figures, and nothing else."""

    regimes: Sequence[Choice] = field(metadata=explained("What the form offers as regime"))
    models: Sequence[Choice] = field(metadata=explained("What it offers as model; the empty value means all"))
    stages: Sequence[Choice] = field(metadata=explained("What it offers as stage, all of them too"))
    windows: Sequence[Choice] = field(metadata=explained("What it offers as window"))
    regime: str = field(metadata=explained("The regime shown"))
    model: str = field(metadata=explained("The model asked for, empty for all"))
    stage: str = field(metadata=explained("The stage asked for, or `all`"))
    since: str = field(metadata=explained("The window asked for, as in `GET /latency`"))
    figures: Markup = field(metadata=explained("`figures.html`; the page fetches it every few seconds"))


def dashboard_page(view: View, names: Sequence[str], figures: Markup) -> DashboardPage:
    """The page around `figures`. `names`: of the models that can be chosen."""
    if view.model and view.model not in names:
        names = [*names, view.model]
    return DashboardPage(
        regimes=[Choice(name, name) for name in REGIMES],
        models=[Choice("", "all"), *(Choice(name, name) for name in names)],
        stages=[Choice(name, name) for name in ("all", *STAGES)],
        windows=[Choice(name, span.text) for name, span in WINDOWS.items()],
        regime=view.regime,
        model=view.model,
        stage=view.stage,
        since=view.since,
        figures=figures,
    )
