"""Outcomes: what a model computed for one picture, as JSON values. `Progress` saves them in a file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.zoo.corruptions import CORRUPTIONS, SEVERITIES
from service.evaluation.average_precision import MAX_DETECTIONS, Detections
from service.evaluation.classification import Prediction
from service.inference.classify import DEFAULT_TOP_K, most_probable, probabilities
from service.inference.decoding.decode import DecodedImage
from service.inference.detect import objects_in
from service.inference.loading import ServedModel

SCORE_FLOOR = 0.001
"""Lowest score of a detection that counts. It is as low as usual for COCO, because average precision needs
detections with low scores, too."""
_TRUE, _FIRST, _OF_TRUE, _VERSIONS, _TOP = range(5)
"""Positions in a classifier's outcome, which is a list: true class, probability of the top class, probability
of the true class, bits that say on which corrupted versions the classifier is right, and the top classes."""


def predicted_by(model: ServedModel, logits: NDArray[np.float32], true_class: int) -> list[Any]:
    """Return a classifier's outcome (probabilities and top classes), given its `logits`, (classes,)."""
    top = most_probable(logits, min(DEFAULT_TOP_K, len(logits)))
    first, of_true = probabilities(
        logits,
        np.array([top[0], true_class]),
        model.session.activation,
        multi_label=model.card.outputs.get("multi_label", False),
    ).tolist()
    return [true_class, first, of_true, None, *top.tolist()]


def is_complete(outcome: list[Any], true_class: int, corruptions: bool) -> bool:
    """Return whether a classifier's outcome is for `true_class`, and has corrupted versions if required."""
    return bool(outcome[_TRUE] == true_class) and not (corruptions and outcome[_VERSIONS] is None)


def prediction_in(outcome: list[Any]) -> Prediction:
    """Return the prediction in a classifier's outcome."""
    return Prediction(tuple(outcome[_TOP:]), outcome[_FIRST], outcome[_OF_TRUE])


def set_versions_right(outcome: list[Any], bits: int) -> None:
    """Store in the outcome whether the classifier is right on each corrupted version: bit i for version i."""
    outcome[_VERSIONS] = bits


def versions_right(outcome: list[Any]) -> NDArray[np.bool_] | None:
    """Return what `set_versions_right` stored in the outcome, as bool (corruptions, severities).

    Return None if nothing was stored.
    """
    bits = outcome[_VERSIONS]
    if bits is None:
        return None
    shape = (len(CORRUPTIONS), len(SEVERITIES))
    return np.array([bits >> bit & 1 for bit in range(shape[0] * shape[1])], dtype=bool).reshape(shape)


def found_by(model: ServedModel, outputs: Mapping[str, NDArray[Any]], image: DecodedImage) -> str:
    """Return a detector's outcome, given its `outputs` for one picture.

    It is the base64 of float64 rows. Each row has the box, the score and the class id of a detection.
    """
    assert model.decoder is not None
    assert model.card.detection is not None
    objects = objects_in(
        outputs,
        image,
        model.card,
        model.decoder,
        model.labels,
        min_score=SCORE_FLOOR,
        max_detections=min(MAX_DETECTIONS, model.card.detection.candidates),
    )
    rows = np.array([(*found.box, found.score, found.class_id) for found in objects], dtype="<f8")
    return base64.b64encode(rows.tobytes()).decode()


def detections_in(outcome: str) -> Detections:
    """Return the detections in a detector's outcome, highest score first."""
    rows = np.frombuffer(base64.b64decode(outcome), "<f8").reshape(-1, 6)
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))
