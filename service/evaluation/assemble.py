"""Make an `Evaluation` from the outcomes of a run: distinct pictures, label sets, figures, verdicts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from models.zoo.corruptions import CORRUPTIONS
from models.zoo.display import shown, without_surrogates
from models.zoo.machine import this_machine
from service.errors import InvalidDataset
from service.evaluation import classification, detection
from service.evaluation.average_precision import Objects
from service.evaluation.choose import Chosen
from service.evaluation.classes import Matched
from service.evaluation.dataset import Dataset, Picture
from service.evaluation.figures import ClassifierResult, Corruptions, DetectorResult, pack_bits
from service.evaluation.result import (
    ClassCount,
    Conflict,
    Data,
    Duplicate,
    Evaluation,
    LabelSet,
    ModelResult,
    Pair,
    Software,
    Unmatched,
    Unreadable,
    data_hash,
    half_of,
)
from service.evaluation.run import Run, Runner, Seen, Subject
from service.inference.session import RUNTIME_VERSION

_DIGITS = 6
_MOST_NAMES = 5
"""Maximum number of class names that a note lists."""


@dataclass(frozen=True)
class Assembled:
    """An evaluation, with the models that ran but are not in it.

    `left_out`: for the name of each of these models, the reason.
    """

    evaluation: Evaluation
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class _Distinct:
    """The distinct pictures that count, and the files that do not count.

    `pictures`: for each SHA-256, the picture. Of several files with the same SHA-256, this is the file that
    was listed first. `duplicates`: the further files with the same SHA-256 and the same truth. `conflicts`:
    files with the same SHA-256 but different truths, none of which counts.
    """

    pictures: Mapping[str, Picture]
    duplicates: tuple[Duplicate, ...]
    conflicts: tuple[Conflict, ...]
    sha256: str
    """Hash of the data set."""

    def of(self, subject_ids: Mapping[str, int], *, detects: bool) -> dict[str, Picture]:
        """Return the pictures on which a model is judged, by SHA-256.

        For a detector (`detects`), these are all pictures. For a classifier, these are the pictures of the
        classes in `subject_ids`.
        """
        return {
            sha256: picture
            for sha256, picture in self.pictures.items()
            if detects or picture.class_name in subject_ids
        }


def assemble(
    dataset: Dataset,
    mapping: Mapping[str, str | int],
    chosen: Chosen,
    runner: Runner,
    run: Run,
    *,
    started_at: datetime,
    notes: Sequence[str] = (),
) -> Assembled:
    """Return the evaluation of the models whose run did not fail.

    `notes`: sentences that are added to the notes of the evaluation. Raises InvalidDataset if no picture or
    no model can be counted.
    """
    distinct = _distinct(run.seen, mapping)
    problems = [(seen.picture.key, seen.problem) for seen in run.seen if seen.problem is not None]
    if not distinct.pictures:
        first = f", the first: {problems[0][0]}: {problems[0][1]}" if problems else ""
        raise InvalidDataset(f"{dataset.name}: none of {len(run.seen)} pictures can be used{first}")
    detects = dataset.task == "object-detection"
    left_out = dict(run.failed)
    results: dict[str, list[ModelResult]] = {}
    for subject in chosen.subjects:
        card = subject.model.card
        if card.name in run.failed:
            continue
        pictures = distinct.of(subject.ids, detects=detects)
        reason = _uncountable(pictures, subject.ids, detects)
        if reason is not None:
            left_out[card.name] = reason
            continue
        results.setdefault(card.labels, []).append(_result(subject, pictures, runner))
    if not results:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InvalidDataset(f"{dataset.name}: no model can be evaluated ({reasons})")
    label_sets = tuple(
        _label_set(labels, chosen.matched[labels], models[0].classes, distinct, detects)
        for labels, models in results.items()
    )
    partial = (
        classification.partial_note(each.labels, each.classes, each.of) for each in label_sets if not detects
    )
    classes = _class_counts(dataset, distinct)
    data = Data(
        name=without_surrogates(dataset.name) or ".",
        kind=dataset.kind,
        task=dataset.task,
        sha256=distinct.sha256,
        pictures=len(dataset.pictures),
        n=len(distinct.pictures),
        half=pack_bits(half_of(sha256) == 1 for sha256 in distinct.pictures),
        duplicates=distinct.duplicates,
        conflicts=distinct.conflicts,
        unreadable=tuple(
            Unreadable(picture=without_surrogates(key), reason=without_surrogates(reason))
            for key, reason in [
                *((problem.key, problem.reason) for problem in dataset.problems),
                *problems,
            ]
        ),
        classes=classes,
        notes=tuple(
            map(
                without_surrogates,
                (*dataset.notes, *_class_notes(classes, detects), *filter(None, partial), *notes),
            )
        ),
    )
    evaluation = Evaluation(
        id=distinct.sha256[:16],
        data=data,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        label_sets=label_sets,
        models=tuple(result for models in results.values() for result in models),
        pairs=tuple(pair for models in results.values() for pair in _pairs(models)),
    )
    return Assembled(evaluation, left_out)


def truth_of(picture: Picture, mapping: Mapping[str, str | int]) -> str:
    """Return the truth of a picture, which is its class or its boxes, as one line of JSON.

    Class names are replaced as `mapping` says.
    """
    if picture.class_name is not None:
        return json.dumps(str(mapping.get(picture.class_name, picture.class_name)))
    boxes = sorted(
        [
            str(mapping.get(box.class_name, box.class_name)),
            *(box.left, box.top, box.right, box.bottom, box.crowd, box.difficult),
            -1.0 if box.area is None else box.area,
        ]
        for box in picture.boxes
    )
    return json.dumps(boxes)


def _distinct(seen: Sequence[Seen], mapping: Mapping[str, str | int]) -> _Distinct:
    """Return the distinct pictures, sorted by SHA-256, with the duplicates and the conflicts."""
    by_content: dict[str, list[tuple[Picture, str]]] = {}
    for each in seen:
        if each.problem is None:
            by_content.setdefault(each.sha256, []).append((each.picture, truth_of(each.picture, mapping)))
    pictures: dict[str, Picture] = {}
    duplicates: list[Duplicate] = []
    conflicts: list[Conflict] = []
    for sha256 in sorted(by_content):
        files = by_content[sha256]
        keys = [without_surrogates(picture.key) for picture, _ in files]
        if len({truth for _, truth in files}) > 1:
            truths = tuple(without_surrogates(_shown_truth(picture)) for picture, _ in files)
            conflicts.append(Conflict(pictures=tuple(keys), truths=truths))
            continue
        pictures[sha256] = files[0][0]
        duplicates += [Duplicate(picture=key, same_as=keys[0]) for key in keys[1:]]
    hashed = data_hash((sha256, truth) for sha256, files in by_content.items() for _, truth in files)
    return _Distinct(pictures, tuple(duplicates), tuple(conflicts), hashed)


def _shown_truth(picture: Picture) -> str:
    if picture.class_name is not None:
        return picture.class_name
    counts = Counter(box.class_name for box in picture.boxes)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing"


def _uncountable(pictures: Mapping[str, Picture], ids: Mapping[str, int], detects: bool) -> str | None:
    """Return why a model cannot be judged on the pictures, or None if it can.

    `ids`: the model's class id for each of the data set's classes that it knows. `detects`: whether the model
    is a detector.
    """
    if not pictures:
        return "none of the pictures of its classes can be used"
    counted = (
        box.class_name in ids and not box.crowd and not box.difficult
        for picture in pictures.values()
        for box in picture.boxes
    )
    return "no object of its classes is annotated" if detects and not any(counted) else None


def _result(subject: Subject, pictures: Mapping[str, Picture], runner: Runner) -> ModelResult:
    model, card = subject.model, subject.model.card
    half = np.array([half_of(sha256) for sha256 in pictures], np.int64)
    keys = [without_surrogates(picture.key) for picture in pictures.values()]
    machine = this_machine()
    detects = subject.detects
    return ModelResult(
        name=card.name,
        sha256=model.version,
        bytes=card.file.bytes,
        task=card.task,
        labels=card.labels,
        classes=card.classes,
        precision=card.precision,
        height=card.input.height,
        width=card.input.width,
        evaluated_at=datetime.now(UTC),
        software=Software(
            onnxruntime=RUNTIME_VERSION,
            instruction_set=machine.instruction_set,
            machine=machine.cpu,
            weighin=version("weighin"),
        ),
        classification=None if detects else _classified(subject, pictures, runner, keys, half),
        detection=_detected(subject, pictures, runner, keys, half) if detects else None,
        corruptions=None if detects else _corrupted(subject, pictures, runner),
    )


def _classified(
    subject: Subject,
    pictures: Mapping[str, Picture],
    runner: Runner,
    keys: Sequence[str],
    half: NDArray[np.int64],
) -> ClassifierResult:
    predictions = []
    for sha256 in pictures:
        prediction = runner.prediction(subject, sha256)
        assert prediction is not None, f"{subject.model.name} has not run on {sha256}"
        predictions.append(prediction)
    truth = np.array([subject.ids[picture.class_name or ""] for picture in pictures.values()], np.int64)
    return classification.summarise(truth, predictions, pictures=keys, labels=subject.model.labels, half=half)


def _detected(
    subject: Subject,
    pictures: Mapping[str, Picture],
    runner: Runner,
    keys: Sequence[str],
    half: NDArray[np.int64],
) -> DetectorResult:
    detections = []
    for sha256 in pictures:
        found = runner.detections(subject, sha256)
        assert found is not None, f"{subject.model.name} has not run on {sha256}"
        detections.append(found)
    facts = subject.model.card.detection
    assert facts is not None
    return detection.summarise(
        [_objects(picture, subject.ids) for picture in pictures.values()],
        detections,
        pictures=keys,
        labels=subject.model.labels,
        half=half,
        min_score=facts.min_score,
    )


def _objects(picture: Picture, ids: Mapping[str, int]) -> Objects:
    """Return the annotated objects of the classes in `ids`."""
    boxes = [box for box in picture.boxes if box.class_name in ids]
    corners = [(box.left, box.top, box.right, box.bottom) for box in boxes]
    return Objects(
        boxes=np.array(corners, np.float64).reshape(-1, 4),
        class_ids=np.array([ids[box.class_name] for box in boxes], np.int64),
        crowd=np.array([box.crowd for box in boxes], bool),
        difficult=np.array([box.difficult for box in boxes], bool),
    )


def _corrupted(subject: Subject, pictures: Mapping[str, Picture], runner: Runner) -> Corruptions | None:
    rows = [runner.corrupted(subject, sha256) for sha256 in pictures]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        return None
    shares = np.mean(known, axis=0)
    return Corruptions(
        n=len(known),
        mean=round(float(shares.mean()), _DIGITS),
        corruptions={
            name: tuple(round(share, _DIGITS) for share in row)
            for name, row in zip(CORRUPTIONS, shares.tolist(), strict=True)
        },
    )


def _label_set(labels: str, matched: Matched, of: int, distinct: _Distinct, detects: bool) -> LabelSet:
    counted = distinct.of(matched.ids, detects=detects)
    having = Counter(
        name
        for picture in distinct.pictures.values()
        for name in {picture.class_name, *(box.class_name for box in picture.boxes)}
    )
    return LabelSet(
        labels=labels,
        classes=len({matched.ids[name] for name in having if name in matched.ids}),
        of=of,
        n=len(counted),
        pictures=pack_bits(sha256 in counted for sha256 in distinct.pictures),
        unmatched=tuple(
            Unmatched(name=without_surrogates(name), pictures=having[name], reason=without_surrogates(reason))
            for name, reason in matched.unmatched.items()
        ),
    )


def _class_counts(dataset: Dataset, distinct: _Distinct) -> tuple[ClassCount, ...]:
    pictures = distinct.pictures.values()
    if dataset.task == "image-classification":
        counts = Counter(picture.class_name for picture in pictures)
    else:
        counts = Counter(box.class_name for picture in pictures for box in picture.boxes)
    return tuple(ClassCount(name=without_surrogates(name), n=counts[name]) for name in dataset.class_names)


def _class_notes(classes: Sequence[ClassCount], detects: bool) -> list[str]:
    """Return sentences on classes with too few usable pictures or objects."""
    thing = "object" if detects else "usable picture"
    notes = []
    for wanted, words in ((0, f"no {thing}"), (1, f"one {thing}, which proves little")):
        names = [each.name for each in classes if each.n == wanted]
        if names:
            count = "1 class has" if len(names) == 1 else f"{len(names)} classes have"
            more = ", ..." if len(names) > _MOST_NAMES else ""
            notes.append(
                f"{count} {words}: {', '.join(shown(name)[:200] for name in names[:_MOST_NAMES])}{more}"
            )
    return notes


def _pairs(models: Sequence[ModelResult]) -> tuple[Pair, ...]:
    """Compare every two of the models, which must all have the same label set."""
    right = {model.name: model.classification.right for model in models if model.classification is not None}
    found = {model.name: model.detection for model in models if model.detection is not None}
    return (*classification.judge_pairs(right), *detection.judge_pairs(found))
