"""Random annotated objects and detections of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.evaluation.average_precision import Detections, Objects


def objects_of(
    boxes: list[tuple[float, float, float, float]],
    class_ids: list[int] | None = None,
    crowd: tuple[int, ...] = (),
    difficult: tuple[int, ...] = (),
) -> Objects:
    """Return the objects of a picture; `crowd` and `difficult`: positions."""
    numbers = range(len(boxes))
    return Objects(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(class_ids if class_ids is not None else [0] * len(boxes), np.int64),
        np.array([number in crowd for number in numbers], bool),
        np.array([number in difficult for number in numbers], bool),
    )


def detections_of(
    boxes: list[tuple[float, float, float, float]], scores: list[float], class_ids: list[int] | None = None
) -> Detections:
    """Return the detections of a picture."""
    return Detections(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(scores, np.float64),
        np.array(class_ids if class_ids is not None else [0] * len(boxes), np.int64),
    )


def random_pictures(
    seed: int,
    pictures: int,
    *,
    classes: int = 4,
    most_objects: int = 6,
    extra: int = 8,
    crowds: float = 0.0,
    difficult: float = 0.0,
    ties: bool = False,
    jitter: float = 0.08,
    found: float = 0.8,
) -> tuple[list[Objects], list[Detections]]:
    """Return objects and detections of random pictures, 200 pixels wide and high.

    Up to `most_objects` objects, each detected with probability `found`, with some noise, and once more now
    and then; with up to `extra` boxes of nothing, all sorted by score. `ties`: whole pixels and scores of one
    digit. Classes above `classes` are detected, but are not annotated.
    """
    random = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(pictures):
        n = int(random.integers(0, most_objects + 1))
        corners, sides = random.uniform(0, 150, (n, 2)), random.uniform(8, 50, (n, 2))
        boxes = np.concatenate([corners, corners + sides], axis=1)
        ids = random.integers(0, classes, n)
        seen = np.concatenate(
            [np.flatnonzero(random.random(n) < found), np.flatnonzero(random.random(n) < 0.3)]
        )
        noisy = boxes[seen] + random.normal(0, jitter, (len(seen), 4)) * np.tile(sides[seen], 2)
        wrong = random.random(len(seen)) < 0.1
        seen_ids = np.where(wrong, random.integers(0, classes + 1, len(seen)), ids[seen])
        count = int(random.integers(0, extra + 1))
        starts = random.uniform(0, 150, (count, 2))
        others = np.concatenate([starts, starts + random.uniform(5, 60, (count, 2))], axis=1)
        scores = np.concatenate([random.beta(4, 2, len(seen)), random.beta(2, 4, count)])
        every = np.concatenate([noisy, others])
        every_id = np.concatenate([seen_ids, random.integers(0, classes + 1, count)])
        if ties:
            boxes, every, scores = rounded(boxes), rounded(every), scores.round(1)
        order = np.argsort(-scores, kind="stable")
        truths.append(Objects(boxes, ids, random.random(n) < crowds, random.random(n) < difficult))
        detections.append(Detections(every[order], scores[order], every_id[order]))
    return truths, detections


def rounded(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return boxes whose corners are multiples of ten and whose sides are at least ten."""
    corners = (boxes / 10).round() * 10
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 10)
    return corners
