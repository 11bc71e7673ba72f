"""Suppression keeps the boxes that the slow implementation keeps."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from numpy.random import Generator

from models.zoo.detection import Suppression
from service.inference.suppression import suppress
from tests.helpers.suppression_graph import PATH, suppression_graph
from tests.service.detection.slow import intersection_over_union, slow_suppression

Boxes = np.ndarray[Any, np.dtype[np.float64]]


def scattered(random: Generator, count: int, spread: float) -> Boxes:
    """Boxes of 20 to 60 pixels a side."""
    centres, sizes = random.uniform(0, spread, (count, 2)), random.uniform(20, 60, (count, 2))
    return np.round(np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1), 2)


def check(boxes: Boxes, ids: np.ndarray[Any, Any], iou: float, how: Suppression, limit: int = 10_000) -> int:
    kept = suppress(boxes, ids, iou, how, limit)
    assert kept.tolist() == slow_suppression(boxes.tolist(), ids.tolist(), iou, how, limit)
    return len(kept)


@pytest.mark.parametrize("how", get_args(Suppression))
@pytest.mark.parametrize(
    ("count", "spread", "classes"), [(400, 100, 23), (400, 4000, 23), (400, 50, 1), (1000, 900, 5)]
)
def test_random_boxes(how: Suppression, count: int, spread: float, classes: int) -> None:
    random = np.random.default_rng(count)
    boxes, ids = scattered(random, count, spread), random.integers(0, classes, count)
    kept = check(boxes, ids, 0.5, how)
    assert kept < count or how == "none" or spread == 4000
    assert check(boxes, ids, 0.3, how, 10) == 10


@pytest.mark.parametrize("iou", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_boxes_of_whole_pixels(iou: float) -> None:
    """Many pairs overlap by exactly the limit, which is allowed."""
    random = np.random.default_rng(0)
    corners = random.integers(0, 12, (300, 2))
    boxes = np.concatenate((corners, corners + random.choice([3, 4, 6, 8], (300, 2))), axis=1).astype(
        np.float64
    )
    ids = random.integers(0, 2, 300)
    exact = sum(
        intersection_over_union(one, other) == iou for one in boxes.tolist() for other in boxes.tolist()
    )
    assert exact > 0
    check(boxes, ids, iou, "by-class")


def test_ten_thousand_boxes() -> None:
    random = np.random.default_rng(1)
    boxes, ids = scattered(random, 10_000, 700), random.integers(0, 80, 10_000)
    kept = suppress(boxes, ids, 0.5, "by-class", 10_000)
    assert kept.tolist() == slow_by_class(boxes, ids)


def slow_by_class(boxes: Boxes, ids: np.ndarray[Any, Any]) -> list[int]:
    """Suppress class by class, which takes seconds instead of minutes."""
    kept: list[int] = []
    for class_id in np.unique(ids):
        rows = np.flatnonzero(ids == class_id)
        kept += rows[
            slow_suppression(boxes[rows].tolist(), [0] * len(rows), 0.5, "by-class", 10_000)
        ].tolist()
    return sorted(kept)


def test_equal_boxes() -> None:
    """Of equal boxes the first one stays, one of each class."""
    boxes = np.tile([10.0, 10.0, 50.0, 50.0], (6, 1))
    ids = np.array([4, 4, 2, 4, 2, 0])
    assert suppress(boxes, ids, 0.5, "by-class", 100).tolist() == [0, 2, 5]
    assert suppress(boxes, ids, 0.5, "over-classes", 100).tolist() == [0]
    assert suppress(boxes, ids, 0.5, "none", 100).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("count", [0, 1])
def test_few_boxes(count: int) -> None:
    boxes, ids = np.tile([0.0, 0.0, 1.0, 1.0], (count, 1)), np.zeros(count, np.int64)
    assert len(suppress(boxes, ids, 0.5, "by-class", 100)) == count


def test_boxes_without_area() -> None:
    """They overlap nothing."""
    boxes = np.array([[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 9.0, 9.0]])
    assert suppress(boxes, np.zeros(3, np.int64), 0.0, "by-class", 100).tolist() == [0, 1, 2]


def test_the_committed_graph_is_one_operator() -> None:
    assert PATH.read_bytes() == suppression_graph()
