"""Choose the models that can be evaluated on a data set, because their labels include its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from models.zoo.card import Task
from models.zoo.display import shown
from models.zoo.labels import read_labels
from service.errors import InvalidDataset, InvalidParameter, ModelUnavailable
from service.evaluation.classes import Matched, match_classes
from service.evaluation.dataset import Dataset
from service.evaluation.run import Subject
from service.inference.loading import ModelEntry, load_model
from service.inference.registry import Registry

_WORDS: dict[Task, str] = {"image-classification": "classifies images", "object-detection": "detects objects"}
_NEEDED: dict[Task, str] = {"image-classification": "a class per picture", "object-detection": "boxes"}
_MOST_CLASSES = 5
"""Maximum number of classes in a message, and of reasons for leaving models out."""


@dataclass(frozen=True)
class Chosen:
    """The models to evaluate, sorted by name.

    `matched`: for each label set, how the classes of the data set match its labels. `left_out`: models that
    are not evaluated, with the reason.
    """

    subjects: tuple[Subject, ...]
    matched: Mapping[str, Matched]
    left_out: Mapping[str, str]


def choose(
    registry: Registry,
    dataset: Dataset,
    mapping: Mapping[str, str | int],
    names: Sequence[str] | None = None,
) -> Chosen:
    """Choose and load the models `names`, by default all models of the task that know enough classes.

    By default, a classifier must know at least two classes of the data set, because one class cannot show
    whether the classifier tells classes apart. One class is enough for a detector, for a model in `names`,
    and if the data set has only one. By default, models are also left out if another label set knows more
    than twice as many of the data set's classes as theirs, because they would be judged on few of the
    pictures.

    Raises UnknownModel. Raises InvalidParameter or ModelUnavailable if a model in `names` cannot be
    evaluated, and InvalidDataset if no model can be evaluated.
    """
    matched: dict[str, Matched] = {}
    read: dict[str, tuple[str, tuple[str, ...]]] = {}
    left_out: dict[str, str] = {}
    wanted: list[ModelEntry] = []
    one_is_enough = names is not None or dataset.task == "object-detection"
    least = 1 if one_is_enough else min(2, len(dataset.class_names))
    entries = registry.entries if names is None else [registry.entry(name) for name in dict.fromkeys(names)]
    for entry in sorted(entries, key=lambda entry: entry.name):
        if names is None and entry.card is not None and entry.card.task != dataset.task:
            continue
        reason = _unusable(entry, dataset, mapping, least, matched, read)
        if reason is None:
            wanted.append(entry)
        elif names is not None:
            raise InvalidParameter(f"model '{entry.name}': {reason}")
        else:
            left_out[entry.name] = reason
    if names is None:
        wanted = _of_the_best_labels(wanted, dataset, matched, left_out)
    subjects = []
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="load") as executor:
        futures = [(entry, executor.submit(load_model, entry.folder)) for entry in wanted]
        for entry, future in futures:
            assert entry.card is not None
            try:
                subjects.append(Subject(future.result(), matched[entry.card.labels].ids))
            except ModelUnavailable as error:
                if names is not None:
                    raise
                left_out[entry.name] = error.detail
    if wanted and not subjects:
        reasons = _some_reasons([left_out[entry.name] for entry in wanted])
        raise InvalidDataset(f"{dataset.name}: no model that has its classes can be loaded ({reasons})")
    if not subjects:
        raise InvalidDataset(_nothing(dataset, matched, left_out))
    used = {subject.model.card.labels for subject in subjects}
    return Chosen(
        tuple(subjects), {labels: matched[labels] for labels in matched if labels in used}, left_out
    )


def _of_the_best_labels(
    entries: Sequence[ModelEntry],
    dataset: Dataset,
    matched: Mapping[str, Matched],
    left_out: dict[str, str],
) -> list[ModelEntry]:
    """Return the models whose label set knows enough of the data set's classes.

    If one label set knows K of these classes, and no other knows more, then K / 2 are enough. The models of
    all other label sets are added to `left_out`, with the reason.
    """
    known = {labels: len(set(each.ids.values())) for labels, each in matched.items()}
    best = max(known, key=lambda labels: known[labels], default=None)
    chosen = []
    for entry in entries:
        assert entry.card is not None
        assert best is not None
        labels = entry.card.labels
        if 2 * known[labels] < known[best]:
            left_out[entry.name] = (
                f"label set {labels} has {known[labels]} of the {len(dataset.class_names)} classes, "
                f"{best} has {known[best]}; --models NAME evaluates it"
            )
        else:
            chosen.append(entry)
    return chosen


def _unusable(
    entry: ModelEntry,
    dataset: Dataset,
    mapping: Mapping[str, str | int],
    least: int,
    matched: dict[str, Matched],
    read: dict[str, tuple[str, tuple[str, ...]]],
) -> str | None:
    """Return why a model cannot be evaluated on the data set, or None if it can.

    If the model's label set is not in `matched` yet, it is matched with the classes of the data set, and
    added. `least`: the smallest number of these classes that the model must know. `read`: for each label set
    that has been read, the first model that has this label set, and the labels.
    """
    card = entry.card
    if card is None:
        return f"cannot be used: {entry.reason}"
    if card.task != dataset.task:
        return f"{_WORDS[card.task]}, but {dataset.name} has {_NEEDED[dataset.task]}"
    try:
        labels = read_labels(card, entry.folder)
    except (OSError, ValueError) as error:
        return f"its labels '{card.labels}' cannot be read: {error}"
    first, same = read.setdefault(card.labels, (entry.name, labels))
    if labels != same:
        return f"its labels differ from those of {first}, though both are called {card.labels}"
    if card.labels not in matched:
        matched[card.labels] = match_classes(dataset.class_names, labels, card.labels, mapping)
    known = len(set(matched[card.labels].ids.values()))
    if known >= least:
        return None
    if len(dataset.class_names) == 1:
        return f"label set {card.labels} does not have the class"
    has = "none" if known == 0 else f"only {known}"
    return f"label set {card.labels} has {has} of the {len(dataset.class_names)} classes"


def _nothing(dataset: Dataset, matched: Mapping[str, Matched], left_out: Mapping[str, str]) -> str:
    """Return the message for a data set on which no model can be evaluated."""
    if not matched:
        reasons = _some_reasons([f"{name}: {reason}" for name, reason in left_out.items()])
        return f"{dataset.name}: no model for {_NEEDED[dataset.task]}{f' ({reasons})' if reasons else ''}"
    names = ", ".join(f"'{name}'" for name in dataset.class_names[:_MOST_CLASSES])
    more = len(dataset.class_names) - _MOST_CLASSES
    known = max(len(set(each.ids.values())) for each in matched.values())
    similar = {
        name: labels[0] for each in reversed(list(matched.values())) for name, labels in each.similar.items()
    }
    lines = [f"{shown(name)} = {shown(similar[name])}" for name in dataset.class_names if name in similar]
    example = f", such as {', '.join(lines[:_MOST_CLASSES])}" if lines else ""
    return (
        f"{dataset.name}: no model has {'its classes' if known == 0 else 'two of its classes'} {names}"
        f"{f' and {more} more' if more > 0 else ''} (allowed: labels of {', '.join(matched)}; "
        f"--mapping FILE with lines CLASS = LABEL{example})"
    )


def _some_reasons(reasons: Sequence[str]) -> str:
    """Join the first _MOST_CLASSES reasons, and say how many more there are."""
    more = len(reasons) - _MOST_CLASSES
    return "; ".join(reasons[:_MOST_CLASSES]) + (f" and {more} more" if more > 0 else "")
