"""The dashboard's view: regime, model, stage and window, as in its URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple
from urllib.parse import urlencode

from markupsafe import Markup

from service.latency.query import ALL, CURRENT
from service.latency.stages import STAGES, Regime, Stage
from service.web.site import explained

Since = Literal["15m", "1h", "6h", "24h", "7d", "30d", "365d"]

StageChoice = Stage | Literal["all", ""]
"""The stage that is chosen.

`all`: every stage, stacked. Empty: the total, or inference if no total is recorded.
"""

RegimeChoice = Regime | Literal[""]
"""The regime that is chosen. If it is empty, the regime with the most runs is shown."""

Sort = Literal[
    "model", "p50", "p90", "p99", "runs", "accuracy", "size", "speedup", "front",
    "-model", "-p50", "-p90", "-p99", "-runs", "-accuracy", "-size", "-speedup", "-front",
]  # fmt: skip
"""Column by which models are sorted; a hyphen in front means descending order."""

DEFAULT_SORT: Sort = "p50"


@dataclass(frozen=True, slots=True)
class Span:
    """A window with its display text and its length in seconds.

    `step_s`: step of charts that show one model and stage, in seconds. `overview_s`: step of charts that show
    several models or stages. Steps are merged from minute buckets. `overview_s` is longer than `step_s` in
    windows in which shorter steps would need too many buckets.
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
    """Return the shortest window of at least `length_s` seconds, but none longer than `most`.

    With a short window, the charts of a short history have fine steps.
    """
    return next((span for span in WINDOWS.values() if length_s <= span.length_s <= most.length_s), most)


SOURCES: dict[Regime, str] = {
    "live": "live, not a controlled benchmark",
    "compare": "comparisons, not a controlled benchmark",
    "demo": "demo, not a controlled benchmark",
    "isolated": "runs of benchmarks (isolated), pooled",
    "load": "runs of benchmarks (load), pooled",
}
"""What the runs of a regime are, in words."""


class Activity(NamedTuple):
    """Numbers of runs and of errors of a regime."""

    runs: int
    errors: int


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows, as in its URL.

    `model`: the model whose details are shown; empty to show all models side by side. `version`: the model
    files' versions as in `GET /latency`: `current`, `all` or the beginning of a version. `baseline`: the
    model with which the other models of its label set are compared; empty for the default. `machine`: name of
    the kind of machine whose runs are shown; empty to pool the runs of all machines.
    """

    regime: RegimeChoice = ""
    model: str = ""
    stage: StageChoice = ""
    since: Since = "24h"
    version: str = CURRENT
    sort: Sort = DEFAULT_SORT
    baseline: str = ""
    machine: str = ""

    def url(self, path: str, **more: str) -> str:
        """Return the URL of an API path, with this view as query parameters (named as in `GET /latency`).

        `more`: further parameters, which replace those of the view. Parameters with empty values are left
        out.
        """
        stage = "" if self.stage == "all" else self.stage
        version = "" if self.version == CURRENT else self.version
        parameters = {"model": self.model, "stage": stage, "regime": self.regime, "since": self.since}
        return _url(path, parameters | {"version": version, "machine": self.machine} | more)

    def page_url(self, **changed: str) -> str:
        """Return the relative URL of the page for this view, with the fields `changed` replaced.

        Fields with default values are left out of the URL.
        """
        given = {item.name: getattr(self, item.name) for item in fields(self)} | changed
        standard = {item.name: item.default for item in fields(self)}
        return _url("./dashboard", {name: value for name, value in given.items() if value != standard[name]})


def _url(path: str, parameters: Mapping[str, str]) -> str:
    given = {name: value for name, value in parameters.items() if value}
    return f"{path}?{urlencode(given)}" if given else path


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of a select: its value in the URL and its text."""

    value: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DashboardPage:
    """The variables of the template `dashboard.html`. A test checks that the template uses exactly these."""

    regimes: Sequence[Choice] = field(
        metadata=explained("Options of the regime: `most runs`, and each regime that has runs or errors")
    )
    models: Sequence[Choice] = field(metadata=explained("Options of the model; the empty value means all"))
    stages: Sequence[Choice] = field(metadata=explained("Options of the stage, including `all`"))
    windows: Sequence[Choice] = field(metadata=explained("Options of the window"))
    versions: Sequence[Choice] = field(metadata=explained("Options of the version"))
    baselines: Sequence[Choice] = field(
        metadata=explained("Options of the baseline; the empty value means the default")
    )
    machines: Sequence[Choice] = field(
        metadata=explained("Options of the machine; the empty value means all, pooled")
    )
    view: View = field(metadata=explained("The selected values"))
    key_needed: bool = field(metadata=explained("Whether `POST /demo` needs the API key"))
    figures: Markup = field(
        metadata=explained("Rendered `figures.html`, which the page refreshes every few seconds")
    )


def dashboard_page(
    view: View,
    names: Sequence[str],
    regimes: Mapping[Regime, Activity],
    machines: Sequence[str],
    figures: Markup,
    *,
    key_needed: bool,
) -> DashboardPage:
    """Build the page around `figures`.

    `names`: the selectable models. `regimes`: for each regime, its numbers of runs and of errors. `machines`:
    the machines with runs.
    """
    machines = sorted({*machines, *filter(None, [view.machine])})
    names = list(dict.fromkeys([*names, *filter(None, (view.model, view.baseline))]))
    most = f"most runs ({busiest(regimes)})" if any(map(any, regimes.values())) else "most runs"
    with_runs = [regime for regime, each in regimes.items() if any(each) or regime == view.regime]
    return DashboardPage(
        regimes=[Choice("", most), *(Choice(name, name) for name in with_runs)],
        models=[Choice("", "all"), *(Choice(name, name) for name in names)],
        stages=[
            Choice("", "total"),
            *(Choice(name, name) for name in STAGES if name != "total"),
            Choice("all", "all, stacked"),
        ],
        windows=[Choice(name, span.text) for name, span in WINDOWS.items()],
        versions=_versions(view.version),
        baselines=[Choice("", "default"), *(Choice(name, name) for name in names)],
        machines=[Choice("", "all"), *(Choice(name, name) for name in machines)],
        view=view,
        key_needed=key_needed,
        figures=figures,
    )


def busiest(regimes: Mapping[Regime, Activity]) -> Regime:
    """Return the regime with the most runs.

    The result is `demo` only if no other regime has runs and `live` has no errors. If no regime has runs, the
    result is `live`.
    """
    ranked = sorted(regimes, key=lambda regime: (regime == "demo", -regimes[regime].runs))
    found: Regime = next((regime for regime in ranked if regimes[regime].runs), "live")
    return "live" if found == "demo" and regimes["live"].errors else found


def _versions(selected: str) -> list[Choice]:
    choices = [Choice(CURRENT, CURRENT), Choice(ALL, ALL)]
    return choices if selected in (CURRENT, ALL) else [*choices, Choice(selected, selected[:12])]
