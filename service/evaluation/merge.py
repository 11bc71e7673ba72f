"""Merge two evaluations of one data set, so that later models can be compared with earlier ones."""

from __future__ import annotations

from collections.abc import Iterator

from service.errors import InvalidEvaluation
from service.evaluation import classification, detection
from service.evaluation.result import MAX_MODELS, Evaluation, LabelSet, ModelResult, Pair


def merge(earlier: Evaluation, later: Evaluation) -> Evaluation:
    """Return an evaluation with the models of both. If a model is in both, its result in `later` counts.

    All pairs of models are compared again. The models of one label set must be judged on the same pictures.
    So if the two evaluations judge a label set on different pictures, its models in `earlier` are dropped. A
    note in the result names the dropped models. Raises InvalidEvaluation if the distinct pictures of the two
    data sets are not the same, or if the evaluations have too many models together.
    """
    mine, theirs = earlier.data, later.data
    if (mine.sha256, mine.task, mine.n, mine.half) != (theirs.sha256, theirs.task, theirs.n, theirs.half):
        raise InvalidEvaluation(
            f"evaluation {later.id}: its distinct pictures are not those of the stored one"
        )
    label_sets = {each.labels: each for each in later.label_sets}
    replaced = {model.name for model in later.models}
    kept = [
        model
        for model in earlier.models
        if model.name not in replaced and _same_pictures(earlier, model, label_sets)
    ]
    dropped = sorted({model.name for model in earlier.models} - replaced - {model.name for model in kept})
    if dropped:
        theirs = theirs.model_copy(update={"notes": (*theirs.notes, _dropped_note(dropped))})
    for model in kept:
        labels = earlier.label_set(model.labels)
        assert labels is not None
        label_sets.setdefault(model.labels, labels)
    models = (*kept, *later.models)
    if len(models) > MAX_MODELS:
        raise InvalidEvaluation(f"evaluation {later.id}: {len(models)} models (allowed: up to {MAX_MODELS})")
    return Evaluation(
        id=later.id,
        data=theirs,
        started_at=min(earlier.started_at, later.started_at),
        finished_at=max(earlier.finished_at, later.finished_at),
        label_sets=tuple(label_sets.values()),
        models=models,
        pairs=tuple(_pairs(models)),
    )


def _dropped_note(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"earlier results of {', '.join(names[:5])}{more} were dropped: their label set was matched to other "
        "pictures this time, so evaluate these models again"
    )


def judged(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation with new comparisons of all pairs of its models, in place of the earlier ones."""
    return evaluation.model_copy(update={"pairs": tuple(_pairs(evaluation.models))})


def _same_pictures(earlier: Evaluation, model: ModelResult, label_sets: dict[str, LabelSet]) -> bool:
    now, then = label_sets.get(model.labels), earlier.label_set(model.labels)
    assert then is not None
    return now is None or (now.pictures, now.of) == (then.pictures, then.of)


def _pairs(models: tuple[ModelResult, ...]) -> Iterator[Pair]:
    """Yield the comparisons of every two models that have the same label set."""
    for labels in dict.fromkeys(model.labels for model in models):
        mine = [model for model in models if model.labels == labels]
        yield from classification.judge_pairs(
            {each.name: each.classification.right for each in mine if each.classification is not None}
        )
        yield from detection.judge_pairs(
            {each.name: each.detection for each in mine if each.detection is not None}
        )
