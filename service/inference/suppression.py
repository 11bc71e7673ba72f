"""Non-maximum suppression: of boxes that overlap, keep the best."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.zoo.detection import Suppression
from service.detection.geometry import DECIMALS
from service.inference.session import open_graph

_GRAPH = Path(__file__).with_name("non_max_suppression.onnx")
"""One NonMaxSuppression operator; a test builds it again.

It is several times as fast as NumPy for 400 boxes (benchmarks/suppression.py, docs/detection.md).
"""
_CLASSES_AT_ONCE = 64
"""Maximum classes in one run: the operator's time and memory grow with classes times boxes."""
_THRESHOLD = np.array([0.5], np.float32)
"""Score threshold: a box's rank in the row of its class is above it, its zeros in other rows are below."""


def suppress(
    boxes: NDArray[np.float64], class_ids: NDArray[np.int64], iou: float, how: Suppression, limit: int
) -> NDArray[np.int64]:
    """Return the indices of the boxes that stay, ascending, at most `limit`.

    `boxes`: (N, 4), left, top, right, bottom, best first. One by one, a box is dropped if its intersection
    over union with a box that stays exceeds `iou`; with `how` `by-class`, only boxes of its own class count.
    A box without area overlaps none. Coordinates are exact if they are rounded as `Transformation.boxes`
    rounds them; areas are float32, so that an overlap within 1e-6 of `iou` may count as above or below it.
    """
    count = len(boxes)
    if how == "none" or count < 2:
        return np.arange(min(count, limit))
    rows = np.zeros(count, np.int64)
    if how == "by-class" and (class_ids != class_ids[0]).any():
        rows = np.unique(class_ids, return_inverse=True)[1]
    chunks = int(rows.max()) // _CLASSES_AT_ONCE + 1
    if chunks == 1:
        return np.sort(_suppress(boxes, rows, iou, limit))[:limit]
    parts = []
    for chunk in range(chunks):
        members = np.flatnonzero(rows // _CLASSES_AT_ONCE == chunk)
        parts.append(members[_suppress(boxes[members], rows[members] % _CLASSES_AT_ONCE, iou, limit)])
    return np.sort(np.concatenate(parts))[:limit]


def _suppress(
    boxes: NDArray[np.float64], rows: NDArray[np.int64], iou: float, limit: int
) -> NDArray[np.int64]:
    """Return the indices of the boxes that stay, in any order, at most `limit` of each class.

    `rows`: the class of each box, int64 (N,), counted from 0.
    """
    count = len(boxes)
    # Ranks instead of scores: the order of equal scores is settled already.
    ranks = np.zeros((1, int(rows.max()) + 1, count), np.float32)
    ranks[0, rows, np.arange(count)] = np.arange(count, 0, -1)
    corners = boxes.astype(np.float32)
    if (corners != boxes).any():  # in 1/100 pixels, all are whole numbers, exact up to 2^24
        corners = (boxes * 10**DECIMALS).astype(np.float32)
    (selected,) = _operator()(
        {
            "boxes": corners[None],
            "scores": ranks,
            "max_output_boxes_per_class": np.array([limit], np.int64),
            "iou_threshold": np.array([iou], np.float32),
            "score_threshold": _THRESHOLD,
        }
    )
    kept: NDArray[np.int64] = selected[:, 2]
    return kept


_opening = threading.Lock()


def _operator() -> Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]:
    """Open the operator's graph, once."""
    with _opening:
        return _opened()


@functools.cache
def _opened() -> Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]:
    return open_graph(_GRAPH.read_bytes())


def warm_up() -> None:
    """Open the graph of NonMaxSuppression and run it once, so that the first request is not slower."""
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    suppress(boxes, np.zeros(2, np.int64), 0.5, "over-classes", 1)
