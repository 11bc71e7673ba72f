"""Accuracy on the user's own pictures: one half ranks the models, the other half gives their figures."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from models.zoo.card import Task
from service.bench.bundle import ModelFacts
from service.bench.recommend.accuracy import AccuracyEstimate
from service.errors import InvalidParameter
from service.evaluation.result import Evaluation, LabelSet

RANKED, QUOTED = 0, 1
"""Index of the half of the pictures that ranks models, and of the half that gives their figures."""


def task_of(evaluation: Evaluation | None, given: Task | None) -> Task:
    """Return the task of the models to recommend.

    This is the task of the evaluation. Without an evaluation it is the given task, and without a given task,
    classification. Raises InvalidParameter if the given task is not that of the evaluation.
    """
    if evaluation is None:
        return given or "image-classification"
    if given not in (None, evaluation.data.task):
        raise InvalidParameter(
            f"task {given}: not that of data {evaluation.id} (allowed: {evaluation.data.task})"
        )
    return evaluation.data.task


def labels_of(evaluation: Evaluation, given: str | None) -> str:
    """Return the label set of the models to recommend.

    This is the given label set. If none is given, it is the one that covers the most pictures. Raises
    InvalidParameter if no model of the given label set was evaluated.
    """
    judged = {model.labels for model in evaluation.models}
    sets = [each for each in evaluation.label_sets if each.labels in judged]
    if given is None:
        return max(sets, key=lambda each: each.n).labels  # the first if several cover equally many
    if given not in judged:
        raise InvalidParameter(
            f"labels '{given[:64]}': no model of it is evaluated on data {evaluation.id} "
            f"(allowed: {', '.join(sorted(judged))})"
        )
    return given


def estimate_on(evaluation: Evaluation, facts: ModelFacts) -> AccuracyEstimate | str:
    """Return the accuracy of a model in the evaluation. If it has none, return the reason in words."""
    result = evaluation.model(facts.name)
    run = f"run `{evaluate_command(evaluation, [facts.name])}`"
    if result is None:
        return f"not evaluated on {_named(evaluation)}: {run}"
    if result.sha256 != facts.sha256:
        return f"evaluated on {_named(evaluation)} with another file: {run}"
    few = f"evaluated on too few pictures of {_named(evaluation)} for a figure on each half of them"
    if result.classification is not None:
        halves = result.classification.halves
        ranked, quoted = halves[RANKED], halves[QUOTED]
        if ranked is None or quoted is None:
            return f"{few} ({result.n})"
        return _estimate(evaluation, ranked.value, ranked.n, quoted.value, quoted.low, quoted.high, quoted.n)
    assert result.detection is not None
    first, second = (result.detection.halves[half] for half in (RANKED, QUOTED))
    if first.ap is None or second.ap is None:
        return f"{few} ({result.n})"
    ap = second.ap
    return _estimate(evaluation, first.ap.value, first.n, ap.value, ap.low, ap.high, second.n)


def evaluate_command(evaluation: Evaluation, models: Sequence[str]) -> str:
    """Return the command that evaluates these models.

    It names the data by the last part of their path, because the evaluation does not record the whole path.
    """
    return f"weighin evaluate --data {shlex.quote(evaluation.data.name)} --models {','.join(models)}"


def origin(evaluation: Evaluation, labels: str) -> str:
    """Describe the pictures on which the accuracies of a recommendation were measured."""
    label_set = evaluation.label_set(labels)
    assert label_set is not None
    figure = _figure(evaluation.data.task)
    return (
        f"{figure} on {_named(evaluation)}, {label_set.n} pictures of {label_set.classes} of the "
        f"{label_set.of} classes of {labels}{_partial(label_set)}: one half of the pictures ranks "
        "the models, the other half gives their figures"
    )


def elsewhere(models: Iterable[ModelFacts], task: Task) -> str:
    """Describe the data sets on which the accuracies on the cards of `models` were measured."""
    how = "run `weighin evaluate --data FOLDER` on labelled pictures of yours, then give its id as data"
    datasets = list(dict.fromkeys(each.accuracy.dataset for each in models if each.accuracy is not None))
    if not datasets:
        return f"{_figure(task)} is unknown: {how}"
    return f"accuracy on {' and '.join(datasets)}, which may differ on your pictures: {how}"


@dataclass(frozen=True)
class Alternative:
    """A model that is within all bounds, but is not the recommended one.

    `p50_ms` is its median latency, infinite if it is unknown. `faster` says in words how much faster it is
    than the recommended model; it is empty unless the difference is significant.
    """

    facts: ModelFacts
    p50_ms: float
    faster: str


def similar(evaluation: Evaluation, best: ModelFacts, alternatives: Iterable[Alternative]) -> Iterable[str]:
    """Yield notes on models that are smaller or faster than `best`, and not distinguishable in accuracy.

    The notes name the smallest and the fastest of these models, and count all further ones.
    """
    pairs = {
        name: pair
        for pair in evaluation.pairs
        for one, name in ((pair.first, pair.second), (pair.second, pair.first))
        if one == best.name and pair.verdict == "not distinguishable"
    }
    better = [
        each
        for each in alternatives
        if each.facts.name in pairs and (each.faster or each.facts.bytes < best.bytes)
    ]
    if not better:
        return
    smallest = min(better, key=lambda each: each.facts.bytes)
    fastest = min((each for each in better if each.faster), key=lambda each: each.p50_ms, default=smallest)
    for each in dict.fromkeys((fastest, smallest)):
        advantages = [each.faster] if each.faster else []
        if each.facts.bytes < best.bytes:
            size = f"{each.facts.bytes / 1e6:.3g} MB against {best.bytes / 1e6:.3g} MB"
            advantages.append(f"smaller ({size})")
        pair = pairs[each.facts.name]
        yield (
            f"'{each.facts.name}' is {' and '.join(advantages)}, and its accuracy is not distinguishable on "
            f"{_named(evaluation)} (difference {abs(pair.difference):.1%}, p = {pair.p:.2g})"
        )
    if (more := len(better) - len({fastest, smallest})) > 0:
        yield f"{more} more of those that fit are smaller or faster, and not distinguishable in accuracy"


def _estimate(
    evaluation: Evaluation, ranked: float, ranked_n: int, value: float, low: float, high: float, n: int
) -> AccuracyEstimate:
    return AccuracyEstimate(
        value=value,
        low=low,
        high=high,
        kind="evaluated",
        how=f"on {n} pictures of {_named(evaluation)} that the ranking did not use; ranked by {ranked:.1%} "
        f"on the other {ranked_n}",
        ranked=ranked,
    )


def _figure(task: Task) -> str:
    return "average precision" if task == "object-detection" else "accuracy"


def _partial(label_set: LabelSet) -> str:
    return f" (not a figure for all of {label_set.labels})" if label_set.classes < label_set.of else ""


def _named(evaluation: Evaluation) -> str:
    return f"'{evaluation.data.name}'"
