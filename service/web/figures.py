"""The refreshed part of the dashboard: its view model, and how it is built."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from urllib.parse import urlsplit

import orjson

from models.zoo.display import counted, joined
from models.zoo.statistics import MIN_SAMPLES
from service.bench.bundle import ModelFacts
from service.latency.histogram import EMPTY_SUMMARY
from service.latency.query import ALL, CURRENT, UNKNOWN_MACHINE, Latencies, Window
from service.latency.series import Figures as Recorded
from service.latency.stages import REGIMES, STAGES, Regime, Stage
from service.web.catalogue import Catalogue
from service.web.chart_data import as_json, over_time, parts, shape, traffic
from service.web.site import explained
from service.web.table import (
    PARTS,
    Answers,
    Cell,
    Group,
    Known,
    Row,
    Table,
    answers,
    build_table,
    percentile_cells,
    stage_of,
    three_digits,
)
from service.web.view import SOURCES, WINDOWS, Activity, Choice, StageChoice, View, busiest, span_for

_MOST_VERSIONS = 10

_COLUMNS = (
    ("model", "model", "by name"),
    ("p50", "p50 ms", "median"),
    ("p90", "p90 ms", "nine of ten runs took at most this"),
    ("p99", "p99 ms", "99 of 100 runs took at most this"),
    ("runs", "runs", "recorded runs of the stage"),
    ("accuracy", "accuracy", "top-1 accuracy, of detectors average precision, with its 95 % interval"),
    ("size", "MB", "size of the model file"),
    ("speedup", "speed-up", "p50 of the group's baseline divided by the model's"),
    (
        "front",
        "front",
        "is another model more accurate, faster and not larger: no, surely, or perhaps",
    ),
)
_DESCENDING_FIRST = ("runs", "accuracy")
"""Columns in which the first click sorts the largest values to the top."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column that models can be sorted by. `order`: `ascending`, `descending` or `none`, as in ARIA."""

    name: str
    text: str
    note: str
    url: str
    order: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a model's detail: name of a stage or version, with its URL, runs and percentiles."""

    name: str
    url: str
    count: int
    percentiles: tuple[Cell, ...]
    is_shown: bool
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Detail:
    """What is shown of one model: its stages and, if there are several, its versions.

    `more`: number of versions that are left out.
    """

    model: str
    stages: tuple[Line, ...]
    versions: tuple[Line, ...]
    more: int
    facts: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The variables of the template `figures.html`. A test checks that the template uses exactly these."""

    degraded: str | None = field(
        metadata=explained("Why state cannot be written or read completely; None if it can")
    )
    view: View = field(metadata=explained("The view, as in the page's URL"))
    is_demo: bool = field(metadata=explained("Whether the runs are those of the demo"))
    begin: str = field(metadata=explained("Start of the window, UTC"))
    end: str = field(metadata=explained("End of the window, UTC; without the date if both are on one day"))
    window: str = field(metadata=explained("Length of the window as text"))
    regime: str = field(metadata=explained("The regime with its number of runs, and why it is shown"))
    stage: str = field(metadata=explained("The stage that is shown"))
    other_regimes: Sequence[Choice] = field(
        metadata=explained("Other regimes that have runs or errors, with URLs")
    )
    machines: str = field(
        metadata=explained(
            "Note that several machines are pooled, or the machine that is chosen; empty if there is only one"
        )
    )
    other_machines: Sequence[Choice] = field(
        metadata=explained("Machines to show alone, with URLs; if one is shown, the others, and all pooled")
    )
    table: Table = field(metadata=explained("The models side by side; in a detail, one and its baseline"))
    columns: Sequence[Column] = field(metadata=explained("The columns that models can be sorted by"))
    answers: Sequence[Answers] = field(
        metadata=explained("The answers about each label set; none in a detail")
    )
    caveat: str = field(metadata=explained("From which runs the answers are computed, in words"))
    source: str = field(metadata=explained("Regime of the recorded runs in words, and if they are pooled"))
    parts: Sequence[Stage] = field(metadata=explained("Stages in the bars, if they are stacked; else empty"))
    toggle: Choice = field(metadata=explained("Link that switches between percentiles and stacked stages"))
    judging: bool = field(metadata=explained("Whether benchmarks are still being read for the front"))
    detail: Detail | None = field(metadata=explained("The selected model; None for all models"))
    overview_url: str = field(metadata=explained("URL of the view of all models"))
    idle: str = field(metadata=explained("Served models without runs in this view, as text; empty for none"))
    other_stages: Sequence[Choice] = field(
        metadata=explained("Stages that have runs, with their URLs, if the selected stage has none")
    )
    other_versions: Sequence[Choice] = field(
        metadata=explained("Versions of models with runs that are not shown, with their URLs; at most ten")
    )
    version_note: str = field(
        metadata=explained("Which versions are pooled, and what is withheld; empty for the current ones")
    )
    all_versions: str = field(metadata=explained("URL of the same view with all versions"))
    min_runs: str = field(
        metadata=explained("Minimum number of runs for p90 and p99, as text; empty if neither is missing")
    )
    charts: str = field(metadata=explained("Chart data as JSON"))
    base_url: str = field(metadata=explained("Base URL of this service without a trailing slash"))
    latency_url: str = field(metadata=explained("URL of the table's figures as JSON"))
    history_url: str = field(metadata=explained("URL of the charts over time as JSON"))
    distribution_url: str = field(metadata=explained("URL of the distribution as JSON; empty for all models"))


@dataclass(frozen=True, slots=True)
class Built:
    """The figures of a view, and the options of the view's form.

    `models`: the served models, then other models with runs. `machines`: the machines with runs. `regimes`:
    for each regime, its numbers of runs and of errors.
    """

    figures: Figures
    models: tuple[str, ...]
    machines: tuple[str, ...]
    regimes: Mapping[Regime, Activity]


class FiguresBuilder:
    """Builds the figures of a view from recorded latencies and the catalogue. Not thread-safe."""

    def __init__(
        self, latencies: Latencies, catalogue: Catalogue, state_problem: Callable[[], str | None]
    ) -> None:
        """`state_problem` returns the reason why state cannot be written, or None."""
        self._latencies = latencies
        self._catalogue = catalogue
        self._state_problem = state_problem

    def build(self, asked: View, base_url: str) -> Built:
        """Return the figures of a view. Reads the database."""
        since = self._latencies.now() - WINDOWS[asked.since].length_s
        by_regime = {
            regime: self._latencies.window(
                regime, since, version=asked.version, machine=asked.machine or None, totals_only=True
            )
            for regime in REGIMES
        }
        counts = {
            regime: Activity(_runs(recorded), _errors(recorded))
            for regime, (_, recorded) in by_regime.items()
        }
        regime = asked.regime or busiest(counts)
        window, recorded = by_regime[regime]
        facts = self._catalogue.facts()
        names = (*facts, *sorted({name for name, _ in recorded.summaries} - facts.keys()))
        view = replace(asked, regime=regime)
        machines = tuple(sorted({*window.machines, *window.other_machines}))
        return Built(self._figures(asked, view, base_url, counts, window, recorded), names, machines, counts)

    def _figures(
        self,
        asked: View,
        view: View,
        base_url: str,
        counts: Mapping[Regime, Activity],
        window: Window,
        recorded: Recorded,
    ) -> Figures:
        assert view.regime
        stage, since = (
            _shown_stage(view.stage, recorded, view.model),
            self._latencies.now() - WINDOWS[view.since].length_s,
        )
        is_stacked = view.stage == "all" and not view.model
        begin, end = _utc(window.start), _utc(window.end)
        facts = self._catalogue.facts()
        known_machines = [name for name in window.machines if name != UNKNOWN_MACHINE]
        source = SOURCES[view.regime]
        if len(known_machines) > 1:
            source += f", pooled over {len(known_machines)} machines"
        measured = self._catalogue.measured(facts, view.machine)
        benchmarked_on = self._catalogue.kind(view.machine) or view.machine
        if not benchmarked_on and len(known_machines) > 1:
            benchmarked_on = self._latencies.machine
        of_other_files = self._of_other_files(view, since, facts)
        stages = {stage_of(recorded, name, stage) for name, _ in recorded.summaries} | {stage}
        recorded, problem = self._with_percentiles(view, since, stages, recorded)
        compared = {
            name: each
            for name, each in facts.items()
            if name in (measured or {}) or _has_runs(recorded, name)
        }
        known = Known(
            recorded=recorded,
            distributions={
                of: self._latencies.distributions(view.regime, since, of, view.version, view.machine or None)
                for of in stages
            },
            facts=facts,
            accuracies=self._catalogue.accuracies(compared),
            measured=measured or {},
            assumed=self._catalogue.assumed(),
            defaults=self._catalogue.defaults,
            of_other_files=of_other_files,
            machine=benchmarked_on or "this machine",
        )
        table = build_table(known, stage, view.sort, view.baseline, stacked_stages=is_stacked)
        if view.model:
            table = _only(table, view.model)
        detail = self._detail(asked, view, stage, since, recorded) if view.model else None
        lines = () if detail is None else (*detail.stages, *detail.versions)
        withholds = table.withholds or any(cell.note for line in lines for cell in line.percentiles)
        left_out = self._latencies.left_out(
            view.regime, since, view.model or None, view.version, view.machine or None
        )
        charts, step_s = self._charts(view, stage, since)
        charts["machines"] = sorted({*window.machines, *window.other_machines})
        root = urlsplit(base_url).path
        is_mixed = not view.model and len(stages) > 1
        of_stage: dict[str, str] = {"stage": "" if is_stacked or is_mixed else stage}
        idle = [] if view.model else [name for name in facts if not _has_runs(recorded, name)]
        return Figures(
            degraded=self._state_problem() or window.degraded or problem,
            view=asked,
            is_demo=view.regime == "demo",
            begin=f"{begin:%Y-%m-%d %H:%M}",
            end=f"{end:%H:%M}" if end.date() == begin.date() else f"{end:%Y-%m-%d %H:%M}",
            window=WINDOWS[view.since].text,
            regime=_regime_words(asked, view.regime, counts),
            stage=stage,
            other_regimes=[
                Choice(replace(asked, regime=other).page_url(), f"{other} ({_counts_text(each)})")
                for other, each in counts.items()
                if any(each) and other != view.regime
            ],
            machines=_machines_text(asked, window),
            other_machines=_other_machines(asked, window),
            table=table,
            columns=_columns(asked),
            answers=[answers(group) for group in table.groups if group.baseline] if not view.model else [],
            caveat=_caveat(table.groups, source),
            source=source,
            parts=PARTS if is_stacked else (),
            toggle=Choice(asked.page_url(stage=""), "show percentiles")
            if is_stacked
            else Choice(asked.page_url(stage="all"), "show stages"),
            judging=measured is None,
            detail=detail,
            overview_url=replace(asked, model="").page_url(),
            idle=f"{joined(idle)} {'has' if len(idle) == 1 else 'have'}" if idle else "",
            other_stages=_other_stages(asked, stage, recorded),
            other_versions=[
                Choice(replace(asked, model=name, version=version[:12]).page_url(), f"{name} {version[:12]}")
                for name, version in left_out[:_MOST_VERSIONS]
            ],
            version_note=_version_note(view, of_other_files),
            all_versions=replace(asked, version=ALL).page_url(),
            min_runs=", ".join(
                f"p{round(100 * fraction)} needs {needed}"
                for fraction, needed in MIN_SAMPLES.items()
                if fraction in (0.90, 0.99) and withholds
            ),
            charts=orjson.dumps(charts).decode(),
            base_url=base_url,
            latency_url=view.url(f"{root}/latency", **of_stage),
            history_url=view.url(f"{root}/latency/history", **of_stage, step=f"{step_s // 60}m"),
            distribution_url=view.url(f"{root}/latency/distribution", stage=stage) if view.model else "",
        )

    def _with_percentiles(
        self, view: View, since: float, stages: Collection[Stage], recorded: Recorded
    ) -> tuple[Recorded, str | None]:
        """Return `recorded` with percentiles.

        For every model, they are those of the stages in `stages`; for the selected model, those of all
        stages. Other percentiles are not read, because reading histograms takes most of the time. The second
        value is the reason why some percentiles could not be read from the store, or None.
        """
        assert view.regime
        window = partial(
            self._latencies.window, view.regime, since, version=view.version, machine=view.machine or None
        )
        found = [window(stage=stage) for stage in stages] + ([window(model=view.model)] if view.model else [])
        summaries = {key: summary for _, each in found for key, summary in each.summaries.items()}
        problem = next((each.degraded for each, _ in found if each.degraded), None)
        return replace(recorded, summaries={**recorded.summaries, **summaries}), problem

    def _of_other_files(self, view: View, since: float, facts: Mapping[str, ModelFacts]) -> frozenset[str]:
        """Return the served models for which the view has runs of a file other than the served one."""
        assert view.regime
        if view.version == CURRENT:
            return frozenset()
        prefix = "" if view.version == ALL else view.version
        others = self._latencies.left_out(view.regime, since, machine=view.machine or None)
        return frozenset(name for name, version in others if name in facts and version.startswith(prefix))

    def _charts(self, view: View, stage: Stage, since: float) -> tuple[dict[str, object], int]:
        """Return the data of the charts, and the step of the charts over time in seconds."""
        assert view.regime
        span, now = WINDOWS[view.since], self._latencies.now()
        machine = view.machine or None
        history = partial(self._latencies.history, view.regime, version=view.version, machine=machine)
        all_models_history = history(since, span.overview_s, stage=stage)
        if all_models_history[1]:
            since = max(since, all_models_history[1][0][0])
            fitting = span_for(now - since, span)
            if fitting != span:
                span = fitting
                all_models_history = history(since, span.overview_s, stage=stage)
        charts: dict[str, object] = {
            "at": now,
            "model": view.model,
            "stage": stage,
            "regime": view.regime,
            "window": WINDOWS[view.since].text,
            **as_json(("traffic", traffic(all_models_history, view.model, stage))),
        }
        if view.model:
            one_history = history(since, span.step_s, model=view.model, stage=stage)
            stages_history = history(since, span.overview_s, model=view.model)
            _, distribution = self._latencies.distribution(
                view.regime, since, view.model, stage, view.version, machine=machine
            )
            charts |= as_json(
                ("over_time", over_time(one_history, view.model, stage)),
                ("parts", parts(stages_history, view.model)),
                ("shape", shape(distribution)),
            )
        return charts, span.step_s if view.model else span.overview_s

    def _detail(self, asked: View, view: View, stage: Stage, since: float, recorded: Recorded) -> Detail:
        assert view.regime
        stages = tuple(
            Line(
                name,
                replace(asked, stage=name).page_url(),
                summary.count,
                percentile_cells(summary),
                name == stage,
            )
            for name in STAGES
            if (summary := recorded.summaries.get((view.model, name))) is not None
        )
        machine = view.machine or None
        versions = self._latencies.versions(view.regime, since, view.model, machine)
        served = self._latencies.served(view.model)
        lines = []
        for version in versions[:_MOST_VERSIONS] if len(versions) > 1 else []:
            _, found = self._latencies.window(
                view.regime, since, model=view.model, stage=stage, version=version, machine=machine
            )
            summary = found.summaries.get((view.model, stage), EMPTY_SUMMARY)
            lines.append(
                Line(
                    version[:12],
                    replace(asked, version=version[:12]).page_url(),
                    summary.count,
                    percentile_cells(summary),
                    version == served if view.version == CURRENT else version.startswith(view.version),
                    "served" if version == served else "",
                )
            )
        more = max(0, len(versions) - _MOST_VERSIONS)
        facts = self._catalogue.facts().get(view.model)
        if facts is None or self._of_other_files(view, since, {view.model: facts}):
            return Detail(view.model, stages, tuple(lines), more, "")
        runs_in = self._catalogue.runs_in(view.model)
        recorded_in = [
            name
            for _, name in self._latencies.runtimes(view.regime, since, view.model, view.version, machine)
        ]
        text = _facts_text(facts) + (f"; runs in {runs_in}" if runs_in else "")
        if len(recorded_in) > 1:
            text += f"; the runs of several runtimes are pooled: {joined(recorded_in)}"
        return Detail(view.model, stages, tuple(lines), more, text)


def _facts_text(facts: ModelFacts) -> str:
    return (
        f"{facts.architecture}, {facts.precision}, labels {facts.labels}, input {facts.height} × "
        f"{facts.width} pixels, {facts.macs / 1e6:.3g} M MACs, {three_digits(facts.bytes / 1e6)} MB"
    )


def _caveat(groups: Sequence[Group], source: str) -> str:
    """Return text that says which runs the answers above the table are computed from.

    `source`: the recorded runs, in words. All answers are computed from them, with one exception: in some
    label sets, benchmarks decide which models are dominated. The text names these label sets.
    """
    judged = [
        group.title.partition(":")[0]
        for group in groups
        if group.front and group.front.source == "benchmarks"
    ]
    exception = f"; dominated models of {joined(judged)}: by benchmarks" if judged else ""
    return f"{source}{exception}"


def _runs(recorded: Recorded) -> int:
    """Return the number of runs of all models.

    The runs of a model are counted by the stage that has the most of them.
    """
    counts: dict[str, int] = {}
    for (name, _), summary in recorded.summaries.items():
        counts[name] = max(counts.get(name, 0), summary.count)
    return sum(counts.values())


def _errors(recorded: Recorded) -> int:
    return sum(count for kinds in recorded.errors.values() for count in kinds.values())


def _regime_words(asked: View, regime: Regime, counts: Mapping[Regime, Activity]) -> str:
    others = any(each.runs for other, each in counts.items() if other != regime)
    why = ", the regime with most" if counts[regime].runs and not asked.regime and others else ""
    return f"{regime} ({_counts_text(counts[regime])}{why})"


def _counts_text(activity: Activity) -> str:
    """Return the number of runs in words. If there are no runs but errors, return the number of errors."""
    if activity.errors and not activity.runs:
        return counted(activity.errors, "error", "errors")
    return counted(activity.runs, "run", "runs")


def _version_note(view: View, of_other_files: Collection[str]) -> str:
    """Return in words which versions are pooled, and for which models facts are withheld.

    The text is empty if the view shows the current versions.
    """
    if view.version == CURRENT:
        return ""
    shown = "All versions of a model are pooled" if view.version == ALL else f"Version {view.version[:12]}"
    if not of_other_files:
        return f"{shown}."
    return (
        f"{shown}. Accuracy, size and front of {joined(sorted(of_other_files))} are not shown: they are "
        "known for the served file only, but there are runs of another file."
    )


def _machines_text(view: View, window: Window) -> str:
    """Return a warning if the figures pool runs of several machines, or name the machine that was chosen.

    The text is empty if no machine was chosen and all runs are of one machine.
    """
    if view.machine:
        return f"Only runs of {'unknown machines' if view.machine == UNKNOWN_MACHINE else view.machine}"
    if len(window.machines) < 2:
        return ""
    known = [name for name in window.machines if name != UNKNOWN_MACHINE]
    if len(known) == 1:
        return "The machine of earlier runs is unknown"
    unknown = "; the machine of earlier runs is unknown" if len(known) < len(window.machines) else ""
    return f"Pooled runs of {len(known)} machines, which may differ in speed{unknown}"


def _other_machines(view: View, window: Window) -> list[Choice]:
    names = window.other_machines if view.machine else window.machines if len(window.machines) > 1 else ()
    choices = [Choice(view.page_url(machine=name), name) for name in names]
    return [Choice(view.page_url(machine=""), "all, pooled"), *choices] if view.machine else choices


def _has_runs(recorded: Recorded, name: str) -> bool:
    return any((name, stage) in recorded.summaries for stage in STAGES)


def _only(table: Table, model: str) -> Table:
    """Return the table with the row of `model` and that of its baseline."""
    groups = [group for group in table.groups if any(row.model == model for row in group.rows)]
    return replace(
        table, groups=tuple(replace(group, rows=_rows_of(group, model)) for group in groups), no_model=""
    )


def _rows_of(group: Group, model: str) -> tuple[Row, ...]:
    return tuple(row for row in group.rows if row.model in (model, group.baseline))


def _columns(view: View) -> list[Column]:
    column, descends = view.sort.removeprefix("-"), view.sort.startswith("-")
    columns = []
    for name, text, note in _COLUMNS:
        order = "none" if name != column else "descending" if descends else "ascending"
        prefix = "-" if order == "ascending" or (order == "none" and name in _DESCENDING_FIRST) else ""
        columns.append(Column(name, text, note, view.page_url(sort=f"{prefix}{name}"), order))
    return columns


def _other_stages(view: View, stage: Stage, recorded: Recorded) -> list[Choice]:
    """Return links to the stages that have runs, if the shown stage has none.

    For example, comparisons and searches have no runs of the stage `total`.
    """
    recorded_stages = {of for name, of in recorded.summaries if view.model in ("", name)}
    if stage in recorded_stages:
        return []
    return [Choice(replace(view, stage=of).page_url(), of) for of in STAGES if of in recorded_stages]


def _shown_stage(choice: StageChoice, recorded: Recorded, model: str) -> Stage:
    """Return the stage to show.

    It is `choice` if this is a single stage other than `total`. Otherwise, it is `total`, or `inference` if
    only other stages than `total` were recorded. `model`: the model whose details are shown; empty for all
    models.
    """
    if choice not in ("all", "", "total"):
        return choice  # type: ignore[return-value]
    stages = {stage for name, stage in recorded.summaries if model in ("", name)}
    return "inference" if stages and "total" not in stages else "total"


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
