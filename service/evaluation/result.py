"""Evaluation: the accuracy of models on one data set, in the form that is stored, posted and returned."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, model_validator

from models.zoo.card import Count, Fraction, Name, PositiveCount, Sha256, Side, Task
from models.zoo.files import write_whole
from models.zoo.frozen import Finite
from service.errors import InvalidEvaluation, error_words
from service.evaluation.figures import (
    Bits,
    ClassifierResult,
    Corruptions,
    DetectorResult,
    Many,
    Mean,
    Share,
    Text,
    unpack_bits,
)

SCHEMA_VERSION = 1
MAX_MODELS = 200
"""Maximum number of models in an evaluation. It is limited because every two models are compared."""

_MOST_ERRORS = 1000
"""Maximum number of errors in a document that are examined. Each error takes a kilobyte of memory."""

EvaluationId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Verdict = Literal["first better", "second better", "not distinguishable"]
DataKind = Literal["folder", "csv", "coco", "voc"]
Signed = Annotated[float, Field(ge=-1, le=1)]


def data_hash(truths: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of a data set.

    `truths`: for every readable picture, the SHA-256 of its file, and its truth. The names and the order of
    the files do not matter.
    """
    lines = sorted(f"{sha256} {truth}\n" for sha256, truth in truths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def half_of(sha256: str) -> int:
    """Return the half of the data set, 0 or 1, that has the picture with this SHA-256 (hexadecimal)."""
    return int(sha256[:2], 16) & 1


class Software(Finite):
    """Software and machine that computed the outputs. Other ones may round differently."""

    onnxruntime: Text
    instruction_set: Many[Text]
    machine: Text = Field(description="Model name of the CPU")
    weighin: Text


class ModelResult(Finite):
    """One evaluated model, with its result: `classification` or `detection`, according to its task."""

    name: Name
    sha256: Sha256 = Field(description="SHA-256 of the ONNX file that ran")
    bytes: PositiveCount
    task: Task
    labels: Name
    classes: PositiveCount
    precision: Literal["fp32", "fp16", "int8"]
    height: Side
    width: Side
    runtime: Literal["onnxruntime"] = "onnxruntime"
    evaluated_at: AwareDatetime
    software: Software
    classification: ClassifierResult | None = None
    detection: DetectorResult | None = None
    corruptions: Corruptions | None = None

    @model_validator(mode="after")
    def _of_its_task(self) -> Self:
        classifies = self.task == "image-classification"
        if (self.classification is not None) != classifies or (self.detection is None) != classifies:
            field = "classification" if classifies else "detection"
            raise ValueError(f"model {self.name}: task {self.task} has the result {field} and no other")
        return self

    @property
    def n(self) -> int:
        """Number of pictures on which the model was judged."""
        result = self.classification or self.detection
        assert result is not None
        return result.n

    @property
    def accuracy(self) -> Share | Mean:
        """Top-1 accuracy of a classifier, or average precision of a detector."""
        if self.classification is not None:
            return self.classification.top1
        assert self.detection is not None
        return self.detection.ap


class Duplicate(Finite):
    """A file with the same bytes and truth as another one; it is not counted."""

    picture: Text = Field(description="Path in the data set")
    same_as: Text


class Conflict(Finite):
    """Files with the same bytes but different truths. None of them is counted."""

    pictures: Many[Text] = Field(min_length=2)
    truths: Many[Text] = Field(min_length=2, description="Class of each picture")


class Unreadable(Finite):
    """A listed picture that could not be used."""

    picture: Text
    reason: Text


class ClassCount(Finite):
    """Number of distinct pictures of a class of the data set; for detection, number of objects."""

    name: Text
    n: Count


class Data(Finite):
    """A data set. Distinct pictures are sorted by the SHA-256 of their files."""

    name: Text = Field(min_length=1)
    kind: DataKind
    task: Task
    sha256: Sha256 = Field(description="SHA-256 over the SHA-256 and the truth of every readable picture")
    pictures: PositiveCount = Field(description="Number of listed files")
    n: PositiveCount = Field(description="Number of distinct pictures that are counted")
    half: Bits = Field(description="Half, 0 or 1, of each distinct picture, determined by its SHA-256")
    duplicates: Many[Duplicate] = ()
    conflicts: Many[Conflict] = ()
    unreadable: Many[Unreadable] = ()
    classes: Many[ClassCount] = ()
    notes: Many[Text] = ()

    @property
    def halves(self) -> NDArray[np.int64]:
        """For each distinct picture, the half of the data set to which it belongs, 0 or 1, int64 (n,)."""
        return unpack_bits(self.half, self.n).astype(np.int64)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        unpack_bits(self.half, self.n)
        left_out = len(self.duplicates) + sum(len(each.pictures) for each in self.conflicts)
        if self.n + left_out > self.pictures:
            raise ValueError(f"{self.n} distinct pictures and {left_out} left out, of {self.pictures} listed")
        if self.task == "image-classification":
            counted = sum(each.n for each in self.classes)
            if counted != self.n:
                raise ValueError(f"classes: {counted} pictures, but {self.n} are distinct")
        return self


class Unmatched(Finite):
    """A class of the data set that matches no single label of a label set."""

    name: Text
    pictures: Count
    reason: Text


class LabelSet(Finite):
    """A label set, and the distinct pictures on which the models of this label set are judged."""

    labels: Name
    classes: PositiveCount = Field(
        description="Number of labels that have a distinct picture, or an object in one"
    )
    of: PositiveCount = Field(description="Number of all labels")
    n: PositiveCount = Field(description="Number of distinct pictures of these classes")
    pictures: Bits = Field(description="Whether each distinct picture of the data set is one of these")
    unmatched: Many[Unmatched] = ()


class Pair(Finite):
    """Comparison of two models of one label set on the same pictures.

    Classifiers: mid-p McNemar test. Detectors: paired bootstrap. p is corrected by Holm's method.
    """

    first: Name
    second: Name
    difference: Signed = Field(description="Accuracy (top-1 or AP) of `first` minus accuracy of `second`")
    low: Signed = Field(description="95 % interval of the difference")
    high: Signed
    p: Fraction = Field(description="p value, corrected for the number of comparisons")
    verdict: Verdict


class Evaluation(Finite):
    """Accuracy of models on one data set. Validators check that figures agree with counts and bits."""

    schema_version: Literal[1] = 1
    id: EvaluationId = Field(description="First 16 digits of the data set's SHA-256")
    data: Data
    started_at: AwareDatetime
    finished_at: AwareDatetime
    label_sets: Many[LabelSet] = Field(min_length=1, max_length=MAX_MODELS)
    models: Many[ModelResult] = Field(min_length=1, max_length=MAX_MODELS, description="One result per name")
    pairs: Many[Pair] = Field(default=(), max_length=MAX_MODELS * (MAX_MODELS - 1) // 2)

    def model(self, name: str) -> ModelResult | None:
        """Return the result of the model `name`, or None if the evaluation does not have this model."""
        return next((model for model in self.models if model.name == name), None)

    def label_set(self, labels: str) -> LabelSet | None:
        """Return the label set `labels`, or None if the evaluation does not have it."""
        return next((each for each in self.label_sets if each.labels == labels), None)

    def verdict(self, one: str, other: str) -> Literal["better", "worse", "not distinguishable"] | None:
        """Return whether the model `one` is better or worse than the model `other`.

        Return None if the two were not compared.
        """
        for pair in self.pairs:
            if {pair.first, pair.second} == {one, other}:
                if pair.verdict == "not distinguishable":
                    return pair.verdict
                return "better" if (pair.verdict == "first better") == (pair.first == one) else "worse"
        return None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.id != self.data.sha256[:16]:
            raise ValueError(f"id {self.id}: not the first 16 digits of the data set's SHA-256")
        if self.finished_at < self.started_at:
            raise ValueError("finished_at: before started_at")
        _unique("models", (model.name for model in self.models))
        _unique("label_sets", (each.labels for each in self.label_sets))
        for model in self.models:
            self._check(model)
        names = {model.name: model.labels for model in self.models}
        for pair in self.pairs:
            if pair.first == pair.second or names.get(pair.first, "") != names.get(pair.second):
                raise ValueError(f"pairs: {pair.first} and {pair.second} are not two models of one label set")
            if pair.low > pair.high:
                raise ValueError(f"pairs: {pair.low} is above {pair.high}")
        return self

    def _check(self, model: ModelResult) -> None:
        """Raise ValueError if the model's result contradicts the data set or the label set."""
        labels = self.label_set(model.labels)
        if labels is None:
            raise ValueError(f"model {model.name}: labels {model.labels} are none of label_sets")
        if model.task != self.data.task:
            raise ValueError(f"model {model.name}: task {model.task}, but the data set's is {self.data.task}")
        if model.classes != labels.of or labels.classes > labels.of:
            raise ValueError(
                f"model {model.name}: {model.classes} classes, but {labels.labels} has {labels.of}"
            )
        counted = unpack_bits(labels.pictures, self.data.n)
        if int(counted.sum()) != labels.n or model.n != labels.n:
            raise ValueError(
                f"model {model.name}: {model.n} pictures, but {labels.labels} has {int(counted.sum())}"
            )
        half = self.data.halves[counted]
        sizes = [int((half == which).sum()) for which in (0, 1)]
        if model.classification is not None:
            given = [(each.n, each.correct) if each else (0, 0) for each in model.classification.halves]
            right = model.classification.right
            expected = [(sizes[which], int(right[half == which].sum())) for which in (0, 1)]
            if given != expected:
                raise ValueError(f"model {model.name}: halves {given}, but the bits give {expected}")
        if model.detection is not None and [each.n for each in model.detection.halves] != sizes:
            raise ValueError(f"model {model.name}: halves are not of {sizes} pictures")


def to_json(evaluation: Evaluation) -> str:
    """Return an evaluation as JSON text."""
    return evaluation.model_dump_json() + "\n"


def from_json(text: str | bytes, what: str = "evaluation") -> Evaluation:
    """Read an evaluation from JSON text. Raises InvalidEvaluation, whose message starts with `what`."""
    try:
        return Evaluation.model_validate_json(text)
    except ValidationError as error:
        if error.error_count() > _MOST_ERRORS:
            raise InvalidEvaluation(f"{what}: {error.error_count()} errors") from None
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part)[:100] for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidEvaluation(": ".join(filter(None, [what, field, reason]))) from None


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation from a file. Raises InvalidEvaluation with the file's name."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidEvaluation(f"{path.name} cannot be read: {error_words(error)}") from None
    return from_json(content, path.name)


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write the evaluation to `path` atomically, readable by all users. Raises OSError."""
    write_whole(path, to_json(evaluation).encode())
    path.chmod(0o644)


def json_schema() -> str:
    """Return the JSON Schema of an evaluation, which is docs/evaluation.schema.json."""
    schema = Evaluation.model_json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"


def _unique(name: str, values: Iterable[str]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"{name}: {twice[0]} is there twice")


if __name__ == "__main__":
    sys.stdout.write(json_schema())
