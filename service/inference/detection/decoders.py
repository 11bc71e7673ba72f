"""Decode the outputs of a detector into boxes with scores.

There is one subclass of `BoxDecoder` for each kind of decoder that a card can name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Card
from models.zoo.detection import (
    BoxFormat,
    CentrePoints,
    DecodedBoxes,
    ScoreActivation,
    SelectedBoxes,
    SsdAnchors,
)

Outputs = Mapping[str, NDArray[Any]]
"""Outputs of a detector for one image, by role, without the batch dimension."""

_MARGIN = 1e-5
"""Relative margin by which the first, fast comparison of scores with the minimum score is too generous. This
comparison is in float32, so it is inexact. A second comparison in float64 decides."""
_ALMOST_1 = 1 - 1e-15
"""Upper limit of a minimum score. Its logit is below every logit whose sigmoid rounds to 1 in float64."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes that a detector finds in one image, with scores and class ids, highest score first.

    Boxes with equal scores are in the order of the network's outputs. `boxes`: float64 (N, 4), left, top,
    right, bottom in pixels of the network's input. They are not clipped to the input. `scores`: float64 (N,),
    0 to 1. `class_ids`: int64 (N,). `landmarks`: float64 (N, L, 2), x and y. It is None if the detector has
    none. If the size of a box exceeds the range of float64, its edges are infinite, and its landmarks
    infinite or NaN.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    landmarks: NDArray[np.float64] | None = None


class BoxDecoder(ABC):
    """Base class: decodes the outputs of one detector, as its card says."""

    def __init__(self, card: Card) -> None:
        assert card.detection is not None
        self._classes = card.classes
        self._offset = card.class_offset
        self._activation: ScoreActivation = getattr(card.detection.decoder, "activation", "none")

    @abstractmethod
    def decode(
        self, outputs: Outputs, min_score: float, limit: int, classes: Collection[int] | None = None
    ) -> Candidates:
        """Return the boxes with the highest scores, best first.

        At most `limit` boxes are returned, and only boxes with a score of at least `min_score`.
        `classes`: ids of the classes whose boxes are returned. None stands for all classes. Boxes whose score
        is NaN are left out.
        """

    def _best(
        self,
        scores: NDArray[np.float32],
        min_score: float,
        limit: int,
        classes: Collection[int] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return row, class id and score of the best of `scores`, which has the shape (N, columns).

        `min_score`, `limit` and `classes` select the scores as they do in `decode`. Columns that are not
        classes, such as the background's, are never selected.
        """
        if self._activation == "softmax":
            scores = _softmax(scores)
        if classes is None:
            wanted = scores[:, self._offset : self._offset + self._classes]
            order, best = self._top(wanted, min_score, limit)
            return *np.divmod(order, self._classes), best
        ids = np.array(sorted(classes), np.int64)
        order, best = self._top(scores[:, ids + self._offset], min_score, limit)
        rows, columns = np.divmod(order, max(1, len(ids)))
        return rows, ids[columns], best

    def _top(
        self, values: NDArray[np.float32], min_score: float, limit: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Flatten `values`, and return the indices and the scores of the best values, best first.

        If the activation is a sigmoid, it has not been applied to `values` yet. At most `limit` values are
        selected, and only values whose score is at least `min_score`.
        """
        # A score that equals `min_score` in float32, the precision of the outputs, passes.
        min_score = min(min_score, float(np.float32(min_score)))
        mask = values >= _lowest(min_score, self._activation)
        indices, hits = mask.ravel().nonzero()[0], values[mask]
        if len(indices) > limit:
            largest = _largest(hits, limit)
            indices, hits = indices[largest], hits[largest]
        order = (-hits).argsort(kind="stable")
        scores = hits[order].astype(np.float64)
        if self._activation == "sigmoid":
            scores = (1 + np.tanh(scores / 2)) / 2
        scores = np.minimum(np.maximum(scores, 0), 1)
        chosen = int(np.count_nonzero(scores >= min_score))  # scores descend: the lowest are at the end
        return indices[order[:chosen]], scores[:chosen]


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the indices of the `count` largest values, the smallest index first.

    If equal values compete for the last places, those with the smallest indices are returned.
    """
    least = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > least)
    equal = np.flatnonzero(values == least)[: count - len(above)]
    return np.sort(np.concatenate((above, equal)))


def _lowest(score: float, activation: ScoreActivation) -> np.float32:
    """Return a value that is slightly lower than the value for which the activation returns `score`."""
    if score <= 0:
        return np.float32(-np.inf)
    if activation == "sigmoid":
        score = min(score, _ALMOST_1)
        score = log(score / (1 - score))
    return np.float32(score - _MARGIN * (1 + abs(score)))


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax of each row."""
    shifted: NDArray[np.float32] = np.exp(scores - scores.max(axis=1, keepdims=True))
    shifted /= shifted.sum(axis=1, keepdims=True)
    return shifted


class _Ssd(BoxDecoder):
    """Decodes boxes that are offsets from anchors, as `SsdAnchors` describes."""

    def __init__(self, card: Card, spec: SsdAnchors) -> None:
        super().__init__(card)
        self._size = np.array([card.input.height, card.input.width], np.float64)
        self._anchors = ssd_anchors(spec, card.input.height, card.input.width)
        self._scales = np.array(spec.box_scales)

    def decode(
        self, outputs: Outputs, min_score: float, limit: int, classes: Collection[int] | None = None
    ) -> Candidates:
        rows, ids, scores = self._best(outputs["scores"], min_score, limit, classes)
        anchors = self._anchors[rows]
        shifts = outputs["boxes"][rows] / self._scales
        with np.errstate(over="ignore", invalid="ignore"):
            centres = (shifts[:, :2] * anchors[:, 2:] + anchors[:, :2]) * self._size
            halves = np.exp(shifts[:, 2:]) * anchors[:, 2:] * self._size / 2
            corners = np.concatenate((centres - halves, centres + halves), axis=1)
        return Candidates(corners[:, [1, 0, 3, 2]], scores, ids)


def ssd_anchors(spec: SsdAnchors, height: int, width: int) -> NDArray[np.float64]:
    """Return the anchors for an input of `height` x `width` pixels, float64 (anchors, 4).

    The four columns are y and x of the centre, height, and width, as fractions of the input.
    """
    layers = len(spec.strides)
    step = (spec.max_scale - spec.min_scale) / max(1, layers - 1)
    start = spec.min_scale if layers > 1 else (spec.min_scale + spec.max_scale) / 2
    anchors = []
    for number, stride in enumerate(spec.strides):
        scale, following = start + step * number, start + step * (number + 1) if number + 1 < layers else 1.0
        shapes = [(scale, ratio) for ratio in spec.aspect_ratios]
        if spec.interpolated_scale_aspect_ratio is not None:
            shapes.append((sqrt(scale * following), spec.interpolated_scale_aspect_ratio))
        if number == 0 and spec.reduce_boxes_in_lowest_layer:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        rows, columns = ceil(height / stride), ceil(width / stride)
        anchors += [
            (
                (row + spec.anchor_offset) / rows,
                (column + spec.anchor_offset) / columns,
                size / sqrt(ratio),
                size * sqrt(ratio),
            )
            for row in range(rows)
            for column in range(columns)
            for size, ratio in shapes
        ]
    return np.array(anchors)


class _Centres(BoxDecoder):
    """Decodes a heatmap of objects' centres, as `CentrePoints` describes."""

    def __init__(self, card: Card, spec: CentrePoints) -> None:
        super().__init__(card)
        self._stride = spec.stride
        self._landmarks = spec.landmarks

    def decode(
        self, outputs: Outputs, min_score: float, limit: int, classes: Collection[int] | None = None
    ) -> Candidates:
        heatmap = outputs["heatmap"]
        cells, ids, scores = self._best(heatmap.reshape(len(heatmap), -1).T, min_score, limit, classes)
        rows, columns = np.divmod(cells, heatmap.shape[2])
        offset = outputs["offset"][:, rows, columns].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            high, wide = np.exp(outputs["size"][:, rows, columns].astype(np.float64)) * self._stride
            y = (rows + offset[0] + 0.5) * self._stride
            x = (columns + offset[1] + 0.5) * self._stride
            left, top = x - wide / 2, y - high / 2
            boxes = np.stack((left, top, x + wide / 2, y + high / 2), axis=1)
            if not self._landmarks:
                return Candidates(boxes, scores, ids)
            points = outputs["landmarks"][:, rows, columns].astype(np.float64)
            landmarks = np.stack((points[1::2] * wide + left, points[::2] * high + top), axis=2)
        return Candidates(boxes, scores, ids, landmarks.transpose(1, 0, 2))


class _InputBoxes(BoxDecoder):
    """Base class of decoders for networks whose graph outputs boxes that are already decoded."""

    def __init__(self, card: Card, spec: DecodedBoxes | SelectedBoxes) -> None:
        super().__init__(card)
        self._format: BoxFormat = spec.format
        size = (card.input.width, card.input.height)
        self._unit = np.array(size if spec.unit == "fractions" else (1, 1), np.float64)

    def _corners(self, boxes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return boxes (N, 4) as left, top, right, bottom in pixels of the input."""
        pairs = boxes.astype(np.float64).reshape(-1, 2, 2)
        if self._format == "yxyx":
            pairs = pairs[:, :, ::-1]
        if self._format == "cxcywh":
            pairs = np.stack((pairs[:, 0] - pairs[:, 1] / 2, pairs[:, 0] + pairs[:, 1] / 2), axis=1)
        return (pairs * self._unit).reshape(-1, 4)


class _Decoded(_InputBoxes):
    """Selects among boxes that the graph has decoded, as `DecodedBoxes` describes."""

    def __init__(self, card: Card, spec: DecodedBoxes) -> None:
        super().__init__(card, spec)
        self._classes_first = spec.scores_layout == "classes-boxes"

    def decode(
        self, outputs: Outputs, min_score: float, limit: int, classes: Collection[int] | None = None
    ) -> Candidates:
        boxes, scores = outputs["boxes"], outputs["scores"]
        if "count" in outputs:
            counted = float(outputs["count"].reshape(-1)[0])
            count = int(min(max(counted, 0), len(boxes)))
            boxes, scores = boxes[:count], scores[..., :count] if self._classes_first else scores[:count]
        if "classes" not in outputs:
            if scores.ndim == 1:
                scores = scores[:, None]
            rows, ids, best = self._best(
                scores.T if self._classes_first else scores, min_score, limit, classes
            )
            return Candidates(self._corners(boxes[rows]), best, ids)
        given = np.rint(outputs["classes"][: len(boxes)].astype(np.float64)) - self._offset
        known = (given >= 0) & (given < self._classes)
        if classes is not None:
            known &= np.isin(given, list(classes))
        rows, best = self._top(np.where(known, scores, np.nan), min_score, limit)
        return Candidates(self._corners(boxes[rows]), best, given[rows].astype(np.int64))


class _Selected(_InputBoxes):
    """Reads boxes that the graph has selected by NonMaxSuppression, as `SelectedBoxes` describes."""

    def decode(
        self, outputs: Outputs, min_score: float, limit: int, classes: Collection[int] | None = None
    ) -> Candidates:
        boxes, scores = outputs["boxes"], outputs["scores"]
        image, ids, rows = outputs["selected"].astype(np.int64).T
        valid = (image == 0) & (ids >= self._offset) & (ids < len(scores)) & (rows >= 0) & (rows < len(boxes))
        ids, rows = ids[valid], rows[valid]
        if self._activation == "softmax":
            scores = _softmax(scores.T).T
        values = scores[ids, rows]
        if classes is not None:
            values = np.where(np.isin(ids - self._offset, list(classes)), values, np.nan)
        order, best = self._top(values, min_score, limit)
        # The operator NonMaxSuppression accepts any two opposite corners of a box.
        pairs = self._corners(boxes[rows[order]]).reshape(-1, 2, 2)
        corners = np.concatenate((pairs.min(axis=1), pairs.max(axis=1)), axis=1)
        return Candidates(corners, best, ids[order] - self._offset)


def decoder_of(card: Card) -> BoxDecoder:
    """Return the decoder for a detector, by the kind of decoder that its card names."""
    assert card.detection is not None
    match card.detection.decoder:
        case SsdAnchors() as spec:
            return _Ssd(card, spec)
        case CentrePoints() as spec:
            return _Centres(card, spec)
        case DecodedBoxes() as spec:
            return _Decoded(card, spec)
        case SelectedBoxes() as spec:
            return _Selected(card, spec)
