"""Print an evaluation: a table of models, the verdict in sentences, and what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from models.zoo.display import counted, joined, shown
from models.zoo.statistics import highest
from service.cli.output import print_whole
from service.evaluation.figures import ClassifierResult, DetectorResult, Mean, Share
from service.evaluation.result import Evaluation, LabelSet, ModelResult

_FEW = 3
"""Maximum number of pictures or classes in a line."""
_MOST_UNMATCHED = 10
"""Maximum number of listed classes that have no label. Users write a mapping from this list."""
_LONGEST_LABEL = 30


def print_evaluation(console: Console, evaluation: Evaluation, left_out: Mapping[str, str]) -> None:
    """Print the figures of the evaluated models by label set, best model first.

    `left_out`: models that were not evaluated, with the reason.
    """

    def line(text: str, style: str | None = None) -> None:
        console.print(text, style=style, soft_wrap=True, highlight=False)

    line(_title(evaluation))
    for labels in evaluation.label_sets:
        models = [model for model in evaluation.models if model.labels == labels.labels]
        models.sort(key=_rank)
        line("")
        print_whole(console, _table(models, labels))
        for text in (*_verdicts(evaluation, models), *_details(models[0])):
            line(text)
        for text in _unmatched(labels):
            line(text, "dim")
    line("")
    for text in (*_left_out_pictures(evaluation), *evaluation.data.notes, *_left_out_models(left_out)):
        line(text, "dim")


def _title(evaluation: Evaluation) -> str:
    data = evaluation.data
    classes = sum(1 for each in data.classes if each.n)
    what = "" if data.task == "image-classification" else " of objects"
    same = "" if data.n == data.pictures else f", {data.n} of them distinct and usable"
    return (
        f"{data.name}: {counted(data.pictures, 'picture', 'pictures')}{same}, "
        f"{counted(classes, 'class', 'classes')}{what}; evaluation {evaluation.id}"
    )


def _rank(model: ModelResult) -> tuple[float, str]:
    return (-model.accuracy.value, model.name)


def _table(models: Sequence[ModelResult], labels: LabelSet) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{labels.labels} ({counted(labels.n, 'picture', 'pictures')})", no_wrap=True)
    if models[0].detection is not None:
        for heading in ("AP [95 %]", "AP50", "AP75"):
            table.add_column(heading, justify="right", no_wrap=True)
        for model in models:
            found = model.detection
            assert found is not None
            table.add_row(model.name, _interval(found.ap), f"{found.ap50:.1%}", f"{found.ap75:.1%}")
        return table
    has_top5 = models[0].classification is not None and models[0].classification.top5 is not None
    has_corrupted = any(model.corruptions is not None for model in models)
    headings = ["top-1 [95 %]", *(["top-5"] if has_top5 else []), "class mean [95 %]", "ECE", "sure from"]
    for heading in (*headings, *(["corrupted"] if has_corrupted else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in models:
        result = model.classification
        assert result is not None
        cells = [_interval(result.top1)]
        if has_top5:
            cells.append("" if result.top5 is None else f"{result.top5.value:.1%}")
        cells += [_interval(result.macro), f"{result.calibration.ece:.1%}", _threshold(result)]
        if has_corrupted:
            cells.append("" if model.corruptions is None else f"{model.corruptions.mean:.1%}")
        table.add_row(model.name, *cells)
    return table


def _interval(figure: Share | Mean) -> str:
    return f"{figure.value:.1%} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def _threshold(result: ClassifierResult) -> str:
    """Return the threshold as text: a probability, and the share of pictures that reach it.

    At or above this probability, predictions are right so often that the lower 95 % bound of their accuracy
    is at least 95 %. The text is "never" if there is no such probability.
    """
    if result.threshold is None:
        return "never"
    return f"{result.threshold.probability:.2f} ({result.threshold.share:.0%})"


def _verdicts(evaluation: Evaluation, models: Sequence[ModelResult]) -> list[str]:
    """Return sentences that compare the best model with each of the other models."""
    if len(models) == 1:
        return []
    best, *same = (model.name for model in highest(models, lambda model: model.accuracy.value))
    verdicts = {model.name: evaluation.verdict(best, model.name) for model in models[1:]}
    worse = [name for name, verdict in verdicts.items() if verdict == "better"]
    alike = [
        name for name, verdict in verdicts.items() if verdict == "not distinguishable" and name not in same
    ]
    figure = "accuracy" if models[0].classification is not None else "average precision"
    if len(same) == len(models) - 1:
        return [f"{'Both' if len(models) == 2 else f'All {len(models)}'} models have the same {figure}."]
    if same:
        parts = [f"{joined([best, *same])} have the highest {figure}"]
        parts += [f"{best} is not distinguishable from {joined(alike)}"] if alike else []
        parts += [f"{best} is better than {joined(worse)}"] if worse else []
        return [f"{'; '.join(parts)}."]
    if not alike:
        return [f"{best} has the highest {figure}; it is better than {_all_or_count(worse, models)}."]
    sentence = f"{best} has the highest {figure}, but is not distinguishable from {joined(alike)}"
    return [f"{sentence}; it is better than {_all_or_count(worse, models)}." if worse else f"{sentence}."]


def _all_or_count(worse: Sequence[str], models: Sequence[ModelResult]) -> str:
    if len(worse) == len(models) - 1 > 1:
        return f"each of the other {len(worse)}"
    return joined(worse)


def _details(model: ModelResult) -> Iterable[str]:
    """Yield lines on the mistakes of the best model: classes, confusions, pictures."""
    if model.classification is not None:
        yield from _classifier_details(model.name, model.classification)
    if model.detection is not None:
        yield from _detector_details(model.name, model.detection)


def _classifier_details(name: str, result: ClassifierResult) -> Iterable[str]:
    hard = sorted((each for each in result.per_class if each.correct < each.n), key=lambda each: each.value)
    if hard and len(result.per_class) > 1:
        text = ", ".join(f"{_label(each.name)} {_interval(each)} (n {each.n})" for each in hard[:_FEW])
        yield f"hardest classes for {name}: {text}"
    if result.confusion:
        pairs = (f"{_label(p.true)} as {_label(p.predicted)} ({p.count})" for p in result.confusion[:_FEW])
        yield f"most confused: {', '.join(pairs)}"
    for picture in result.worst[:_FEW]:
        yield (
            f"  {picture.picture}: {_label(picture.true)}, predicted {_label(picture.predicted)} "
            f"with {picture.probability:.0%}"
        )


def _detector_details(name: str, result: DetectorResult) -> Iterable[str]:
    by_class = [(each.ap, each) for each in result.per_class if each.ap is not None]
    if len(by_class) > 1:
        hard = sorted(by_class, key=lambda pair: pair[0])[:_FEW]
        yield f"lowest AP of {name}: " + ", ".join(f"{_label(c.name)} {ap:.1%} (n {c.n})" for ap, c in hard)
    for picture in result.worst[:_FEW]:
        yield f"  {picture.picture}: {picture.missed} missed, {picture.false} false"


def _label(label: str) -> str:
    """Return the first name of a label such as "tench, Tinca tinca"."""
    name = label.split(",")[0].strip() or label
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"


def _unmatched(labels: LabelSet) -> list[str]:
    """Return lines on the classes that have no label in the label set."""
    if not labels.unmatched:
        return []
    classes = counted(len(labels.unmatched), "class", "classes")
    pictures = sum(each.pictures for each in labels.unmatched)
    lines = [f"not counted for {labels.labels}: {classes}, {counted(pictures, 'picture', 'pictures')}"]
    most = sorted(labels.unmatched, key=lambda each: -each.pictures)[:_MOST_UNMATCHED]
    lines += [f"  {each.name} ({each.pictures}): {each.reason}" for each in most]
    return lines + _more(len(labels.unmatched), _MOST_UNMATCHED)


def _left_out_pictures(evaluation: Evaluation) -> Iterable[str]:
    data = evaluation.data
    if data.unreadable:
        yield f"{len(data.unreadable)} not usable:"
        yield from (f"  {each.picture}: {shown(each.reason)}" for each in data.unreadable[:_FEW])
        yield from _more(len(data.unreadable))
    if data.duplicates:
        yield f"{counted(len(data.duplicates), 'exact duplicate', 'exact duplicates')}, not counted again:"
        yield from (f"  {each.picture} = {each.same_as}" for each in data.duplicates[:_FEW])
        yield from _more(len(data.duplicates))
    if data.conflicts:
        pictures = counted(len(data.conflicts), "picture", "pictures")
        yield f"{pictures} with more than one label, not counted:"
        for each in data.conflicts[:_FEW]:
            yield "  " + ", ".join(f"{p} ({t})" for p, t in zip(each.pictures, each.truths, strict=True))
        yield from _more(len(data.conflicts))


def _more(count: int, listed: int = _FEW) -> list[str]:
    return [f"  and {count - listed} more (--json FILE lists all)"] if count > listed else []


def _left_out_models(left_out: Mapping[str, str]) -> Iterable[str]:
    """Yield a line for each reason why models were left out."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        yield f"not evaluated: {joined(names)}: {reason}"
