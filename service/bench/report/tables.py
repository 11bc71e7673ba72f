"""The tables of a report, with texts as cells. HTML and Markdown are made from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from models.zoo.card import Task
from models.zoo.display import counted
from models.zoo.statistics import MIN_SAMPLES
from service.bench.report.document import (
    AccuracyFigure,
    ClassFigure,
    EvaluatedModel,
    LatencyFigures,
    Report,
    ReportedModel,
)

MOST_CLASSES, MOST_MODELS = 30, 8
"""Maximum rows and maximum models in a table of classes. The JSON document has all classes and models."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell has a value, and beside it a note in smaller type, such as an interval or a reason."""

    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    `mark` says whether the model is on a front; it is None if this is unknown or not shown. `quiet` rows are
    shown less prominently.
    """

    name: str
    cells: tuple[Cell, ...]
    mark: bool | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a report.

    `first` is the heading of the first column, and `headings` has those of the remaining columns. `words`
    says for each of the remaining columns whether it holds text instead of numbers.
    """

    title: str
    first: str
    headings: tuple[Cell, ...]
    words: tuple[bool, ...]
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def marked(self) -> bool:
        """Whether at least one row says if its model is on a front."""
        return any(row.mark is not None for row in self.rows)


@dataclass(frozen=True, slots=True)
class _Column:
    heading: Cell
    cell: Callable[[ReportedModel], Cell]
    words: bool = False


def result_tables(report: Report) -> dict[tuple[Task, str], Table]:
    """Return a table of the measured entries for each task and label set, in the order of the benchmark."""
    groups: dict[tuple[Task, str], list[ReportedModel]] = {}
    for each in report.models:
        groups.setdefault((each.task, each.labels), []).append(each)
    return {group: _results(report, group[1], models) for group, models in groups.items()}


def _results(report: Report, labels: str, models: Sequence[ReportedModel]) -> Table:
    scenario = report.benchmark.scenario
    ms = _decimals(each.latency.p50_ms for each in models if each.latency)
    mb = _decimals(each.bytes / 1e6 for each in models)
    top1 = "AP" if models[0].task == "object-detection" else "top-1"
    columns = [
        _Column(Cell(top1, "[95 %]"), lambda each: accuracy_cell(each.accuracy)),
        _Column(Cell("origin"), _origin, words=True),
    ]
    if report.evaluation is not None:
        columns.append(_Column(Cell("accuracy", "verdict"), _accuracy_verdict, words=True))
    if scenario == "server":
        heading = Cell("queries/s", f"p99 ≤ {report.benchmark.budget_ms or 0:g} ms")
        columns.append(_Column(heading, lambda each: Cell(_number(each.queries_per_s))))
    elif scenario == "single-stream":
        columns += [
            _Column(Cell("p50", "ms [95 %]"), lambda each: _median(each.latency, ms)),
            _Column(Cell("p90", "ms, at most"), lambda each: _bound(each.latency, 0.90, ms)),
            _Column(Cell("p99", "ms, at most"), lambda each: _bound(each.latency, 0.99, ms)),
        ]
    if scenario != "server":
        columns += [
            _Column(Cell("speed-up", "[95 %]"), _speed_up),
            _Column(Cell("speed", "verdict"), _verdict, words=True),
            _Column(Cell("images/s"), lambda each: Cell(_number(each.images_per_s))),
        ]
    columns += [
        _Column(Cell("memory", "MB"), lambda each: Cell(_mega(each.peak_memory_bytes, 0))),
        _Column(Cell("file", "MB"), lambda each: Cell(_mega(each.bytes, mb))),
        _Column(Cell("MACs"), lambda each: Cell(_macs(each.macs))),
    ]
    rows = []
    for each in models:
        front = report.front_model(each.entry)
        cells = tuple(column.cell(each) for column in columns)
        mark = None if front is None else front.on_front
        rows.append(Row(each.entry, cells, mark, quiet=each.control))
    return Table(
        title=labels,
        first="model",
        headings=tuple(column.heading for column in columns),
        words=tuple(column.words for column in columns),
        rows=tuple(rows),
    )


def evaluation_tables(report: Report) -> tuple[Table, ...]:
    """Return two tables for each label set: one of the evaluated models, and one of the classes."""
    if report.evaluation is None:
        return ()
    tables = []
    for labels in report.evaluation.label_sets:
        models = [each for each in report.evaluation.models if each.labels == labels.labels]
        if models:
            covered = f"{counted(labels.n, 'picture', 'pictures')} of {labels.classes} of "
            covered += counted(labels.of, "class", "classes")
            tables.append(_evaluated(f"{labels.labels}: {covered}", models))
            tables.append(_classes(labels.labels, models))
    return tuple(tables)


def _evaluated(title: str, models: Sequence[EvaluatedModel]) -> Table:
    detectors = models[0].ap50 is not None
    headings = [Cell("AP" if detectors else "top-1", "[95 %]")]
    headings += (
        [Cell("AP at IoU 0.5")] if detectors else [Cell("top-5"), Cell("mean of classes"), Cell("ECE")]
    )
    corrupted = any(each.corrupted is not None for each in models)
    rows = []
    for each in models:
        shares = [each.ap50] if detectors else [each.top5, each.class_mean, each.ece]
        cells = [accuracy_cell(each.accuracy), *(Cell(_percent(share)) for share in shares)]
        if corrupted:
            cells.append(Cell(_percent(each.corrupted)))
        rows.append(Row(each.model, tuple(cells)))
    headings += [Cell("corrupted pictures")] if corrupted else []
    return Table(title, "model", tuple(headings), (False,) * len(headings), tuple(rows))


def _classes(labels: str, evaluated: Sequence[EvaluatedModel]) -> Table:
    """Return a table of the hardest classes, with the accuracies of a few models on each class.

    The models are those that are most accurate on all pictures. The class on which their mean accuracy is
    lowest comes first.
    """
    best = sorted(evaluated, key=lambda each: -each.accuracy.value)[:MOST_MODELS]
    models = [each for each in evaluated if each in best]
    by_class: dict[str, dict[str, ClassFigure]] = {}
    for each in models:
        for figure in each.per_class:
            by_class.setdefault(figure.name, {})[each.model] = figure
    order = sorted(by_class, key=lambda name: (_mean(by_class[name].values()), name))
    rows = []
    for name in order[:MOST_CLASSES]:
        figures = by_class[name]
        n = max(figure.n for figure in figures.values())
        cells = [Cell(str(n)), *(_class_cell(figures.get(each.model)) for each in models)]
        rows.append(Row(name, tuple(cells)))
    left_out = [
        counted(count, one, several)
        for count, one, several in (
            (len(order) - len(rows), "easier class", "easier classes"),
            (len(evaluated) - len(models), "less accurate model", "less accurate models"),
        )
        if count
    ]
    objects = models[0].ap50 is not None
    return Table(
        title=f"{labels}: classes, hardest first",
        first="class",
        headings=(Cell("objects" if objects else "pictures"), *(Cell(each.model) for each in models)),
        words=(False,) * (len(models) + 1),
        rows=tuple(rows),
        note=f"Left out: {' and '.join(left_out)}; the JSON form of the report has them." if left_out else "",
    )


def _mean(figures: Iterable[ClassFigure]) -> float:
    values = [figure.value for figure in figures if figure.value is not None]
    return sum(values) / len(values) if values else math.inf


def _class_cell(figure: ClassFigure | None) -> Cell:
    if figure is None or figure.value is None:
        return Cell("–")
    if figure.low is None or figure.high is None:
        return Cell(_percent(figure.value))
    return Cell(_percent(figure.value), f"[{figure.low:.0%}, {figure.high:.0%}]")


def accuracy_cell(accuracy: AccuracyFigure | None) -> Cell:
    """Format an accuracy with its interval."""
    if accuracy is None:
        return Cell("–")
    return Cell(f"{accuracy.value:.1%}", f"[{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]")


def _origin(model: ReportedModel) -> Cell:
    return _word(None if model.accuracy is None else model.accuracy.kind)


def _accuracy_verdict(model: ReportedModel) -> Cell:
    return _word(None if model.accuracy is None else model.accuracy.verdict)


def _word(text: str | None) -> Cell:
    return Cell(text or "–")


def _median(latency: LatencyFigures | None, decimals: int) -> Cell:
    if latency is None:
        return Cell("–")
    low, high = latency.p50_low_ms, latency.p50_high_ms
    interval = "" if low is None or high is None else f"[{low:.{decimals}f}, {high:.{decimals}f}]"
    return Cell(f"{latency.p50_ms:.{decimals}f}", interval)


def _bound(latency: LatencyFigures | None, fraction: float, decimals: int) -> Cell:
    if latency is None:
        return Cell("–")
    bound = latency.p90 if fraction == 0.90 else latency.p99
    if bound is None:
        return Cell("–", f"{latency.count} < {MIN_SAMPLES[fraction]} runs")
    return Cell(f"{bound.bound_ms:.{decimals}f}", f"({bound.estimate_ms:.{decimals}f})")


def _speed_up(model: ReportedModel) -> Cell:
    if model.baseline:
        return Cell("1")
    if model.speed_up is None:
        return Cell("–")
    speed = model.speed_up
    low, high = speed.low, speed.high
    interval = "" if low is None or high is None else f"[{_three_digits(low)}, {_three_digits(high)}]"
    return Cell(_three_digits(speed.value), interval)


def _verdict(model: ReportedModel) -> Cell:
    if model.baseline:
        return Cell("baseline")
    return _word(None if model.speed_up is None else model.speed_up.verdict)


def _decimals(values: Iterable[float]) -> int:
    """Return a number of decimals, 1 to 3, for a column of values.

    With it, the smallest value has about three significant digits.
    """
    smallest = min((value for value in values if value > 0), default=1.0)
    return min(3, max(1, 2 - math.floor(math.log10(smallest))))


def _three_digits(value: float) -> str:
    """Format a number above 0 with three significant digits: 0.000123, 1.20, 123."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _mega(count: int | None, decimals: int) -> str:
    return "–" if count is None else f"{count / 1e6:.{decimals}f}"


def _macs(count: int) -> str:
    """Format multiply-accumulates in millions, with three significant digits."""
    return f"{count / 1e6:.0f} M" if count >= 1e8 else f"{count / 1e6:.3g} M"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
