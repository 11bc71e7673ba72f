"""Suppression keeps the boxes that the slow implementation keeps."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.random import Generator

from models.zoo.detection import Suppression
from service.inference.detection import suppression
from service.inference.detection.suppression import suppress
from service.inference.loading import load_model
from tests.helpers.detectors import save_detector
from tests.helpers.suppression_graph import PATH, suppression_graph
from tests.service.inference.detection.slow import intersection_over_union, slow_suppression

Boxes = np.ndarray[Any, np.dtype[np.float64]]


def scattered(random: Generator, count: int, spread: float) -> Boxes:
    """Boxes of 20 to 60 pixels a side."""
    centres, sizes = random.uniform(0, spread, (count, 2)), random.uniform(20, 60, (count, 2))
    return np.round(np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1), 2)


def check(boxes: Boxes, ids: np.ndarray[Any, Any], iou: float, how: Suppression, limit: int = 10_000) -> int:
    kept = suppress(boxes, ids, iou, how, limit)
    assert kept.tolist() == slow_suppression(boxes.tolist(), ids.tolist(), iou, how, limit)
    return len(kept)


@pytest.mark.slow
@pytest.mark.parametrize("how", get_args(Suppression))
@pytest.mark.parametrize(
    ("count", "spread", "classes"), [(400, 100, 23), (400, 4000, 23), (400, 50, 1), (700, 750, 5)]
)
def test_random_boxes(how: Suppression, count: int, spread: float, classes: int) -> None:
    random = np.random.default_rng(count)
    boxes, ids = scattered(random, count, spread), random.integers(0, classes, count)
    kept = check(boxes, ids, 0.5, how)
    assert kept < count or how == "none" or spread == 4000
    assert check(boxes, ids, 0.3, how, 10) == 10


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_overlaps_near_the_limit_far_from_the_corner() -> None:
    """Pairs of boxes at 5000 to 9000 pixels that float32 cannot hold, both sides of the limit."""
    random = np.random.default_rng(2)
    first = np.round(random.uniform(5000, 9000, (400_000, 2)), 2)
    size = np.round(random.uniform(20, 60, (400_000, 2)), 2)
    shift = np.round(random.uniform(0, 0.5, (400_000, 2)) * size, 2)
    inner = (size - shift).prod(axis=1)
    overlap = inner / (2 * size.prod(axis=1) - inner)
    near = np.flatnonzero((np.abs(overlap - 0.5) > 2e-6) & (np.abs(overlap - 0.5) < 2e-5))
    assert len(near) > 20
    kept = set()
    for row in near:
        one = np.round(np.concatenate((first[row], first[row] + size[row])), 2)
        pair = np.stack((one, np.round(one + np.tile(shift[row], 2), 2)))
        kept.add(check(pair, np.zeros(2, np.int64), 0.5, "by-class"))
    assert kept == {1, 2}


def test_five_thousand_classes() -> None:
    """Of each class two equal boxes. A matrix of classes and boxes would take 200 MB."""
    random = np.random.default_rng(3)
    boxes = scattered(random, 5000, 700)
    ids = np.arange(5000)
    both, classes = np.concatenate((boxes, boxes)), np.concatenate((ids, ids))
    tracemalloc.start()
    kept = suppress(both, classes, 0.5, "by-class", 10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept.tolist() == list(range(5000))
    assert peak < 10e6
    assert suppress(both, classes, 0.5, "by-class", 100).tolist() == list(range(100))


def test_loading_a_detector_opens_the_graph(tmp_path: Path) -> None:
    """Otherwise the first request would wait for it."""
    suppression._opened.cache_clear()
    load_model(save_detector(tmp_path))
    assert suppression._opened.cache_info().currsize == 1


def test_threads_open_the_graph_once() -> None:
    suppression._opened.cache_clear()
    with ThreadPoolExecutor(8) as threads:
        operators = {id(operator) for operator in threads.map(lambda _: suppression._operator(), range(64))}
    assert (len(operators), suppression._opened.cache_info().misses) == (1, 1)


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
