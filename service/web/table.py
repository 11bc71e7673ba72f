"""The models side by side: a row per model with latency, accuracy and size, grouped by task and label set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from models.zoo.display import joined
from models.zoo.statistics import MIN_SAMPLES, highest
from service.bench.bundle import ModelFacts
from service.bench.recommend.accuracy import AccuracyEstimate
from service.bench.recommend.evidence import Measured
from service.bench.report.chart import Chart
from service.latency.histogram import EMPTY_SUMMARY, Distribution, Summary
from service.latency.series import Figures
from service.latency.stages import STAGES, Stage
from service.web.catalogue import Accuracies, Labels
from service.web.fronts import GroupFront, front_of, short_names
from service.web.marks import Axis, Marks, Part, Tick, marks, stacked
from service.web.view import Sort

PARTS: tuple[Stage, ...] = tuple(stage for stage in STAGES if stage != "total")
"""The stages whose times add up to the total."""

ORIGINS = {"measured": "card", "reported": "card", "inherited": "card", "evaluated": "yours"}
"""Origin of an accuracy in one word, by the kind of the estimate."""

MOST_NAMED = 2
"""Maximum number of dominated models that the answers name. If there are more, they are counted."""

Place = Literal["front", "behind", "dominated", ""]
"""Place of a model relative to the front.

`behind`: the model is on the front, but another model is better by every estimate. Empty: the place is
unknown.
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure as text; `note` says how it was obtained, or why it is missing."""

    text: str
    note: str = ""


NOTHING = Cell("–", "unknown")
OTHER_FILE = Cell("–", "these runs are of another file than the one that is served")


@dataclass(frozen=True, slots=True)
class Row:
    """Row of one model.

    `tags`: words such as `fastest`. `place_cell`: the model's place, in words. `origin`: origin of the
    model's accuracy; empty if the accuracies of all models of the group have the same origin. If stages are
    stacked, the chart shows `parts`, and `marks` is None. Otherwise, it shows `marks`, and `parts` is empty.
    `assumed`: the assumed facts of the model's card on which predictions depend. `is_comparable`: whether the
    row shows the stage by which the models of the group are compared. If the model has no runs of this stage,
    the row may show another one. Rows are sorted by the numbers in `summary`, `facts` and `accuracy`, and by
    `model` and `place`, rather than by the text of cells.
    """

    model: str
    summary: Summary
    facts: ModelFacts | None
    accuracy: AccuracyEstimate | None
    marks: Marks | None
    parts: tuple[Part, ...]
    percentiles: tuple[Cell, ...]
    accuracy_cell: Cell
    interval: str
    origin: str
    size: Cell
    speedup: Cell
    place: Place
    place_cell: Cell
    tags: tuple[str, ...]
    errors: str
    assumed: tuple[str, ...]
    is_comparable: bool


@dataclass(frozen=True, slots=True)
class Group:
    """The models of one task and label set. `note`: on what their accuracies were measured.

    `line`: where the chart draws a line for the baseline, in percent of the chart's width. The line is at the
    baseline's median latency or, if stages are stacked, at its mean. It is None if the baseline has no runs.
    """

    title: str
    note: str
    rows: tuple[Row, ...]
    baseline: str
    line: float | None
    front: GroupFront | None

    @property
    def chart(self) -> Chart | None:
        """Chart of the front, if accuracies are known."""
        return None if self.front is None else self.front.chart


@dataclass(frozen=True, slots=True)
class Table:
    """All groups, the axis that their charts share, and the errors of requests that named no model."""

    groups: tuple[Group, ...]
    axis: Axis
    ticks: tuple[Tick, ...]
    no_model: str

    @property
    def has_errors(self) -> bool:
        """Whether any row has errors."""
        return any(row.errors for group in self.groups for row in group.rows)

    @property
    def places(self) -> frozenset[Place]:
        """Places that at least one of the models has; unknown places are left out."""
        return frozenset(row.place for group in self.groups for row in group.rows if row.place)

    @property
    def withholds(self) -> bool:
        """Whether any percentile of any row is missing."""
        return any(cell.note for group in self.groups for row in group.rows for cell in row.percentiles)


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile with one answer.

    `title`: what the tile answers, such as `Fastest`. `text`: the model or models. `note`: the figure.
    """

    kind: Literal["fastest", "accurate", "dominated", "baseline"]
    title: str
    text: str
    note: str


@dataclass(frozen=True, slots=True)
class Answers:
    """The tiles above the table for one label set.

    `of`: name of the label set; `title`: title of the group of models that have it.
    """

    of: str
    title: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What the table combines: recorded figures, distributions of the stages shown, and the models' facts.

    `of_other_files`: models that have runs of a file other than the served one. Their `facts`, `accuracies`
    and `measured` are of the served file, so the table withholds them. `machine`: machine of the benchmarks
    in `measured`, in words.
    """

    recorded: Figures
    distributions: Mapping[Stage, Mapping[str, Distribution]]
    facts: Mapping[str, ModelFacts]
    accuracies: Mapping[Labels, Accuracies]
    measured: Mapping[str, Measured]
    assumed: Mapping[str, tuple[str, ...]]
    defaults: Sequence[str]
    of_other_files: frozenset[str] = frozenset()
    machine: str = "this machine"


def build_table(known: Known, stage: Stage, sort: Sort, baseline: str = "", *, stacked_stages: bool) -> Table:
    """Build the rows of every model with runs of `stage` or with errors, and the axis of their charts.

    If no total is recorded for a model (searches have none), its row shows inference, and a tag says so. In
    each group, the models are compared with one model of the group that has runs: with `baseline` if it is
    such a model, else with the default model if it is one, else with the one that has the most
    multiply-accumulates.
    """
    groups: dict[Labels | None, list[str]] = {}
    names = {name for name, of in known.recorded.summaries if of == stage_of(known.recorded, name, stage)}
    names |= {name for name, kinds in known.recorded.errors.items() if name and kinds}
    for name in sorted(names):
        facts = known.facts.get(name)
        groups.setdefault(None if facts is None else (facts.task, facts.labels), []).append(name)
    axis = _axis(known, stage, names, stacked_stages)
    ordered = sorted(groups.items(), key=lambda item: _importance(known, *item))
    return Table(
        tuple(
            _group(known, stage, sort, baseline, axis, labels, members, stacked_stages)
            for labels, members in ordered
        ),
        axis,
        tuple(axis.ticks()),
        errors_text(known.recorded.errors.get("", {})),
    )


def _axis(known: Known, stage: Stage, names: Iterable[str], stacked_stages: bool) -> Axis:
    if stacked_stages:
        return Axis.over((sum(mean_parts(known.recorded, name).values()) for name in names), stacked=True)
    summaries = [_summary(known, name, stage_of(known.recorded, name, stage)) for name in names]
    return Axis.over(
        ms for each in summaries for ms in (each.p50_ms, each.p90_ms, each.p99_ms) if ms is not None
    )


def _importance(known: Known, labels: Labels | None, names: Sequence[str]) -> tuple[bool, ...]:
    """Return the sort key of a group of models.

    The group of the default model is first. Then come classifiers, detectors, and models without a card.
    """
    is_default = known.defaults[0] in names
    has_facts = labels is not None
    detects = labels is not None and labels[0] == "object-detection"
    return (not is_default, not has_facts, detects)


def _group(
    known: Known,
    stage: Stage,
    sort: Sort,
    wanted: str,
    axis: Axis,
    labels: Labels | None,
    names: Sequence[str],
    stacked_stages: bool,
) -> Group:
    shown = stage
    stages = {name: stage_of(known.recorded, name, stage) for name in names}
    with_runs = [of for name, of in stages.items() if (name, of) in known.recorded.summaries]
    if with_runs and stage not in with_runs:
        stage = with_runs[0]
        stages = dict.fromkeys(names, stage)
    accuracies = Accuracies("", {}, frozenset())
    front = None
    if labels is not None:
        accuracies = known.accuracies.get(labels, accuracies)
        if stage in ("total", "inference"):
            compared = [known.facts[name] for name in names if name not in known.of_other_files]
            compared += [
                each
                for name, each in known.facts.items()
                if name in known.measured and name not in names and (each.task, each.labels) == labels
            ]
            recorded = known.distributions.get(stage, {})
            front = front_of(labels, compared, accuracies, recorded, known.measured, known.machine)
    baseline = _baseline(known, stage, wanted, names)
    base = _summary(known, baseline, stage)
    short = short_names(names)
    rows = [
        _row(
            known,
            shown,
            stage,
            stages[name],
            axis,
            name,
            accuracies,
            front,
            base,
            baseline,
            short,
            stacked_stages,
        )
        for name in names
    ]
    if not known.of_other_files.intersection(names):
        rows = _tagged(rows, accuracies)
    if len({row.origin for row in rows if row.origin}) < 2:  # the group's note says it
        rows = [replace(row, origin="") for row in rows]
    line = None
    if stacked_stages:
        line = axis.x(sum(mean_parts(known.recorded, baseline).values())) if base.count else None
    elif base.p50_ms is not None:
        line = axis.x(base.p50_ms)
    return Group(
        title=_title(labels, len(names)),
        note=f"accuracy: {accuracies.of}" if accuracies.of else "",
        rows=tuple(sorted_rows(rows, sort)),
        baseline=baseline,
        line=line,
        front=front,
    )


def _title(labels: Labels | None, count: int) -> str:
    if labels is None:
        return "no longer served"
    task, name = labels
    kind = "detectors" if task == "object-detection" else "classifiers"
    return f"{name}: {count} {kind if count != 1 else kind[:-1]}"


def _baseline(known: Known, stage: Stage, wanted: str, names: Sequence[str]) -> str:
    recorded = [name for name in names if _summary(known, name, stage).count]
    for name in (wanted, *known.defaults):
        if name in recorded:
            return name
    with_facts = [known.facts[name] for name in recorded if name in known.facts]
    return max(with_facts, key=lambda each: (each.macs, each.bytes, each.name)).name if with_facts else ""


def _row(
    known: Known,
    shown_stage: Stage,
    group_stage: Stage,
    stage: Stage,
    axis: Axis,
    name: str,
    accuracies: Accuracies,
    front: GroupFront | None,
    base: Summary,
    baseline: str,
    short: Mapping[str, str],
    stacked_stages: bool,
) -> Row:
    is_served = name not in known.of_other_files
    place, place_cell = _place(front, name, short)
    if stage != group_stage and (front is None or front.source == "recorded"):
        place, place_cell = "", Cell("–", f"not compared: no {group_stage} is recorded")
    if not is_served:
        place, place_cell = "", OTHER_FILE
    summary = _summary(known, name, stage)
    facts = known.facts.get(name) if is_served else None
    estimate = accuracies.by_model.get(name) if is_served else None
    unknown = NOTHING if is_served else OTHER_FILE
    return Row(
        model=name,
        summary=summary,
        facts=facts,
        accuracy=estimate,
        marks=None if stacked_stages else marks(axis, summary),
        parts=stacked(axis, mean_parts(known.recorded, name), PARTS, _counts(known.recorded, name))
        if stacked_stages
        else (),
        percentiles=tuple(percentile_cells(summary)[index] for index in (0, 1, 3)),
        accuracy_cell=unknown if estimate is None else Cell(f"{estimate.value:.1%}", estimate.how),
        interval="" if estimate is None else f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}",
        origin="" if estimate is None else ORIGINS[estimate.kind],
        size=unknown if facts is None else Cell(three_digits(facts.bytes / 1e6), f"{facts.bytes} bytes"),
        speedup=_speedup(base, summary, name, baseline)
        if stage == group_stage
        else Cell("–", f"not compared: {stage} only, no {group_stage} is recorded"),
        place=place,
        place_cell=place_cell,
        tags=(
            *(["baseline"] if name == baseline else []),
            *([f"{stage} only"] if stage != shown_stage else []),
        ),
        errors=errors_text(known.recorded.errors.get(name, {})),
        assumed=known.assumed.get(name, ()) if is_served else (),
        is_comparable=stage == group_stage,
    )


def _speedup(base: Summary, summary: Summary, name: str, baseline: str) -> Cell:
    if base.p50_ms is None or not summary.p50_ms:
        return Cell("–", "no median to compare")
    if name == baseline:
        return Cell("1.00", "the baseline")
    return Cell(three_digits(base.p50_ms / summary.p50_ms), f"p50 of {baseline} divided by its own")


def _place(front: GroupFront | None, name: str, short: Mapping[str, str]) -> tuple[Place, Cell]:
    if front is not None and name in front.dominated:
        beaten = front.dominated[name]
        return "dominated", Cell(f"dominated by {short.get(beaten.by, beaten.by)}", beaten.reason)
    if front is not None and name in front.behind:
        behind = front.behind[name]
        return "behind", Cell(f"behind {short.get(behind.by, behind.by)}?", behind.reason)
    if front is not None and name in front.on_front:
        return "front", Cell("front", "no model is more accurate, faster and not larger")
    reason = "total and inference are compared only" if front is None else front.absent.get(name)
    return "", Cell("–", f"not compared: {reason or 'its accuracy or its latency is unknown'}")


def _tagged(rows: Sequence[Row], accuracies: Accuracies) -> list[Row]:
    """Return the rows with tags for the fastest and the most accurate model, if several can be compared."""
    timed = [row for row in rows if row.summary.p50_ms is not None and row.is_comparable]
    judged = [row for row in rows if row.accuracy is not None and row.model in accuracies.compared]
    fastest = highest(timed, lambda row: -(row.summary.p50_ms or 0.0)) if len(timed) > 1 else []
    best = highest(judged, lambda row: row.accuracy.value if row.accuracy else 0.0) if len(judged) > 1 else []
    return [
        replace(
            row,
            tags=(
                *row.tags,
                *(["fastest"] if row in fastest else []),
                *(["most accurate"] if row in best else []),
            ),
        )
        for row in rows
    ]


_VALUES: dict[str, Callable[[Row], float | str | None]] = {
    "model": lambda row: row.model,
    "p50": lambda row: row.summary.p50_ms,
    "p90": lambda row: row.summary.p90_ms,
    "p99": lambda row: row.summary.p99_ms,
    "runs": lambda row: row.summary.count,
    "accuracy": lambda row: None if row.accuracy is None else row.accuracy.value,
    "size": lambda row: None if row.facts is None else row.facts.bytes,
    "speedup": lambda row: None if row.speedup.text == "–" else -(row.summary.p50_ms or 0.0),
    "front": lambda row: {"front": 0, "behind": 1, "dominated": 2}.get(row.place),
}


def sorted_rows(rows: Iterable[Row], sort: Sort) -> list[Row]:
    """Return the rows, sorted by the column that `sort` names; `-` before the name means descending order.

    Rows whose value in this column is unknown come last.
    """
    value = _VALUES[sort.removeprefix("-")]
    by_name = sorted(rows, key=lambda row: row.model)
    known = [row for row in by_name if value(row) is not None]
    known.sort(key=lambda row: value(row), reverse=sort.startswith("-"))  # type: ignore[arg-type,return-value]
    return known + [row for row in by_name if value(row) is None]


def answers(group: Group) -> Answers:
    """Return the answers about a label set: fastest, most accurate, dominated, and the baseline's p99."""
    rows = list(group.rows)

    def tagged(tag: str) -> list[Row]:
        return sorted((row for row in rows if tag in row.tags), key=lambda row: row.model)

    def named(several: Sequence[Row]) -> str:
        return ", ".join(row.model for row in several)

    tiles = []
    if fastest := tagged("fastest"):
        tiles.append(Tile("fastest", "Fastest", named(fastest), f"p50 {fastest[0].percentiles[0].text} ms"))
    if best := tagged("most accurate"):
        figures = f"{best[0].accuracy_cell.text} [{best[0].interval}]"
        note = ", ".join(filter(None, (figures, best[0].origin)))
        tiles.append(Tile("accurate", "Most accurate", named(best), note))
    if group.front is not None and len(group.front.on_front) + len(group.front.dominated) > 1:
        tiles.append(Tile("dominated", "Dominated", *_dominated(group.front, rows)))
    for row in tagged("baseline"):
        p99 = row.percentiles[2]
        note = f"p99 {p99.text} ms" if not p99.note else f"no p99 yet, needs {MIN_SAMPLES[0.99]} runs"
        if len(rows) == 1:
            note = f"p50 {row.percentiles[0].text} ms, {note}"
        tiles.append(Tile("baseline", "Baseline", row.model, note))
    return Answers(group.title.partition(":")[0], group.title, tuple(tiles))


def _dominated(front: GroupFront, rows: Sequence[Row]) -> tuple[str, str]:
    """Return the text and the note of the tile about dominated models.

    The text names the models that are proven to be dominated, or gives their number if they are more than
    MOST_NAMED. The note names up to three models that are behind another model, but not proven to be
    dominated.
    """
    proven = ", ".join(sorted(front.dominated))
    if len(front.dominated) > MOST_NAMED:
        proven = f"{len(front.dominated)} models"
    if not front.behind:
        return proven or "none", ""
    short = short_names([row.model for row in rows])
    behind = joined([short.get(name, name) for name in sorted(front.behind)])
    return f"{proven or 'none proven'};", f"behind another: {behind}"


def percentile_cells(summary: Summary) -> tuple[Cell, ...]:
    """Return the cells of the four percentiles.

    The cell of a missing percentile has a dash and the number of runs that the percentile needs.
    """
    values = (summary.p50_ms, summary.p90_ms, summary.p95_ms, summary.p99_ms)
    return tuple(
        Cell("–", f"too few runs (needs {needed})") if value is None else Cell(three_digits(value))
        for value, needed in zip(values, MIN_SAMPLES.values(), strict=True)
    )


def _summary(known: Known, name: str, stage: Stage) -> Summary:
    return known.recorded.summaries.get((name, stage), EMPTY_SUMMARY)


def stage_of(recorded: Figures, name: str, stage: Stage) -> Stage:
    """Return the stage to show for a model.

    It is `stage` or, if this is the total and only inference was recorded, inference.
    """
    is_absent = stage == "total" and (name, "total") not in recorded.summaries
    return "inference" if is_absent and (name, "inference") in recorded.summaries else stage


def mean_parts(recorded: Figures, name: str) -> dict[Stage, float]:
    """Return the mean time in ms that a run spends in each stage.

    A run without the stage counts as 0 ms. So the stages add up to the mean time of all runs, also if some of
    the runs are searches.
    """
    found = {stage: recorded.summaries.get((name, stage)) for stage in PARTS}
    runs = _most_runs(recorded, name)
    return {
        stage: each.mean_ms * each.count / runs
        for stage, each in found.items()
        if each is not None and each.mean_ms
    }


def _most_runs(recorded: Figures, name: str) -> int:
    return max((recorded.summaries.get((name, stage), EMPTY_SUMMARY).count for stage in PARTS), default=0)


def _counts(recorded: Figures, name: str) -> dict[Stage, str]:
    """Return, for each stage that some of the runs lack, the number of runs that have it, in words."""
    runs = _most_runs(recorded, name)
    counts = {stage: recorded.summaries.get((name, stage), EMPTY_SUMMARY).count for stage in PARTS}
    return {stage: f"over all runs; {n} of {runs} have it" for stage, n in counts.items() if 0 < n < runs}


def three_digits(value: float) -> str:
    """Format a figure with three significant digits.

    A figure of 1000 or more is rounded to a whole number.
    """
    return f"{value:.0f}" if value >= 999.5 else f"{value:#.3g}".removesuffix(".")


def errors_text(errors: Mapping[str, int]) -> str:
    """Format error counts by kind, most frequent first."""
    ranked = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {slug}" for slug, count in ranked)
