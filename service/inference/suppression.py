"""Non-maximum suppression: of boxes that overlap, keep the best."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.zoo.detection import Suppression
from service.inference.session import open_graph

_GRAPH = Path(__file__).with_name("non_max_suppression.onnx")
"""One NonMaxSuppression operator; a test builds it again.

It is several times as fast as NumPy for 400 boxes (benchmarks/suppression.py, docs/detection.md).
"""
_THRESHOLD = np.array([0.5], np.float32)
"""Ranks are above it, and the zeros of other classes below."""


def suppress(
    boxes: NDArray[np.float64], class_ids: NDArray[np.int64], iou: float, how: Suppression, limit: int
) -> NDArray[np.int64]:
    """Return the indices of the boxes that stay, ascending, at most `limit`.

    `boxes`: (N, 4), left, top, right, bottom, best first. One by one, a box is dropped if its intersection
    over union with a box that stays exceeds `iou`; with `how` `by-class`, only boxes of one class count.
    A box without area overlaps none.
    """
    count = len(boxes)
    if how == "none" or count < 2:
        return np.arange(min(count, limit))
    rows = np.zeros(count, np.int64)
    if how == "by-class" and (class_ids != class_ids[0]).any():
        rows = np.unique(class_ids, return_inverse=True)[1]
    # Ranks instead of scores: the order of equal scores is settled already.
    ranks = np.zeros((1, int(rows.max()) + 1, count), np.float32)
    ranks[0, rows, np.arange(count)] = np.arange(count, 0, -1)
    (selected,) = _operator()(
        {
            "boxes": boxes[None].astype(np.float32),
            "scores": ranks,
            "max_output_boxes_per_class": np.array([limit], np.int64),
            "iou_threshold": np.array([iou], np.float32),
            "score_threshold": _THRESHOLD,
        }
    )
    kept: NDArray[np.int64] = np.sort(selected[:, 2])[:limit]
    return kept


@functools.cache
def _operator() -> Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]:
    """Open the operator's graph, on first use."""
    return open_graph(_GRAPH.read_bytes())
