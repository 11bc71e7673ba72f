"""Non-maximum suppression: of several boxes that overlap, keep only the best one."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.zoo.detection import Suppression
from service.inference.detection.geometry import DECIMALS
from service.inference.session import open_graph

_GRAPH = Path(__file__).with_name("non_max_suppression.onnx")
"""ONNX file with one NonMaxSuppression operator. A test builds the file again and compares the two.

The operator is several times as fast as NumPy for 400 boxes (benchmarks/suppression.py, docs/detection.md).
"""
_CLASSES_AT_ONCE = 64
"""Maximum number of classes in one run. The operator's time and memory grow with classes times boxes."""
_THRESHOLD = np.array([0.5], np.float32)
"""Score threshold. The operator gets one row of scores per class. In the row of its class, a box has its
rank, which is at least 1. In all other rows it has 0, which is below the threshold."""


def suppress(
    boxes: NDArray[np.float64], class_ids: NDArray[np.int64], iou: float, how: Suppression, limit: int
) -> NDArray[np.int64]:
    """Return the indices of the boxes that stay, in ascending order, at most `limit` of them.

    `boxes`: left, top, right and bottom of each box, (N, 4), from the best box to the worst. The boxes are
    examined in this order. A box is dropped if its intersection over union with an earlier box that stays
    exceeds `iou`. If `how` is `by-class`, each box is compared only with boxes of its own class. If `how` is
    `none`, no box is dropped for its overlap. A box without area overlaps no other box. Coordinates become
    float32, which changes nothing if they are rounded as `Transformation.boxes` rounds them. Areas are
    float32, so that an overlap within 1e-6 of `iou` may count as above or below it.
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
    # Ranks replace scores, because the boxes are already sorted, also those with equal scores.
    ranks = np.zeros((1, int(rows.max()) + 1, count), np.float32)
    ranks[0, rows, np.arange(count)] = np.arange(count, 0, -1)
    corners = boxes.astype(np.float32)
    if (corners != boxes).any():  # 1/100 pixel as unit: whole numbers, which float32 holds up to 2^24
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
    """Return the function that runs the operator's graph. The first call opens the graph."""
    with _opening:
        return _opened()


@functools.cache
def _opened() -> Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]:
    return open_graph(_GRAPH.read_bytes())


def warm_up() -> None:
    """Open the graph of NonMaxSuppression and run it once, so that the first request is not slower."""
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    suppress(boxes, np.zeros(2, np.int64), 0.5, "over-classes", 1)
