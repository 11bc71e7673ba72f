"""What the dashboard shows, worked out before the template sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.histogram import Summary
from service.latency.figures import Figures
from service.percentiles import MIN_SAMPLES
from service.stages import STAGES
from service.web.chart import Chart
from service.web.site import explained


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of a form's list: what the URL says and what the reader sees."""

    value: str
    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One percentile in the table, or why it is withheld."""

    text: str
    withheld: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One stage of a model; `percentiles` are p50, p90, p95 and p99."""

    stage: str
    count: int
    percentiles: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """One model's rows of the table, at least one; its errors belong to no single stage."""

    model: str
    rows: tuple[Row, ...]
    errors: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DashboardPage:
    """Everything that `dashboard.html` refers to, and nothing else (a test compares the two)."""

    base_url: str = field(metadata=explained("Where this service is reached, without a slash at the end"))
    degraded: str | None = field(metadata=explained("Why state cannot be written or not all of it be read"))
    regimes: Sequence[Choice] = field(metadata=explained("What the form offers as regime"))
    models: Sequence[Choice] = field(metadata=explained("What it offers as model; the empty value means all"))
    stages: Sequence[Choice] = field(metadata=explained("What it offers as stage; the empty value means all"))
    windows: Sequence[Choice] = field(metadata=explained("What it offers as window"))
    regime: str = field(metadata=explained("The regime shown"))
    model: str = field(metadata=explained("The model asked for, empty for all"))
    stage: str = field(metadata=explained("The stage asked for, empty for all"))
    since: str = field(metadata=explained("The window asked for, as in `GET /latency`"))
    begin: str = field(metadata=explained("Begin of the window, UTC"))
    end: str = field(metadata=explained("End of the window, UTC"))
    groups: Sequence[Group] = field(metadata=explained("The table, by model"))
    chart: Chart | None = field(metadata=explained("p50 and p95 over time; None when nothing was recorded"))
    chart_title: str = field(metadata=explained("Model, stage and regime of the chart"))
    chart_step: str = field(metadata=explained("How much time one point of the chart stands for"))
    chart_side: int = field(metadata=explained("Width and height of the chart in its own units"))
    latency_url: str = field(metadata=explained("The table's figures as JSON"))
    history_url: str = field(metadata=explained("The chart's points as JSON"))


def table(figures: Figures, names: Sequence[str], model: str, stage: str) -> list[Group]:
    """The rows of each of `names` that has any, of one model or stage where these are not empty.

    Errors that came before a model was known stand in a group without a model, where all models are shown.
    """
    groups = []
    for name in [model] if model else [*names, ""]:
        rows = tuple(
            Row(one, summary.count, _cells(summary))
            for one in STAGES
            if one == (stage or one) and (summary := figures.summaries.get((name, one))) is not None
        )
        errors = errors_text(figures.errors.get(name, {}))
        if rows or errors:
            none = Row("", 0, (Cell("", False),) * len(MIN_SAMPLES))
            groups.append(Group(name or "(no model)", rows or (none,), errors))
    return groups


def _cells(summary: Summary) -> tuple[Cell, ...]:
    """The four percentiles; one that is None says how many samples it needs."""
    values = (summary.p50_ms, summary.p90_ms, summary.p95_ms, summary.p99_ms)
    return tuple(
        Cell(f"n too small (needs {needed})", True)
        if value is None
        else Cell(milliseconds_text(value), False)
        for value, needed in zip(values, MIN_SAMPLES.values(), strict=True)
    )


def milliseconds_text(value: float) -> str:
    """Milliseconds with about four significant digits, never more than a microsecond's worth."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def errors_text(errors: Mapping[str, int]) -> str:
    """How many errors of which kind, the most frequent first."""
    ranked = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {slug}" for slug, count in ranked)
