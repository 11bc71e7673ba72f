"""Average precision of detections, also with pictures resampled. NumPy computes it as in pycocotools."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
"""IoU that a detection must reach to find an object: 0.5, 0.55 ... 0.95."""
AP50, AP75 = 0, 5
"""Indices of 0.5 and 0.75 in THRESHOLDS."""
RECALLS: NDArray[np.float64] = np.linspace(0, 1, 101)
"""Recalls at which the precision is taken for its average."""
MAX_DETECTIONS = 100
"""Maximum number of detections that count per picture and class. If there are more, the best ones count."""
_NEARLY = 1e-4
"""Tolerance for rounding errors when a float32 recall, in percent, is rounded down to a whole number."""
_MOST_AT_ONCE = 4_000_000
"""Maximum count of numbers in one array. With larger arrays, a million detections could take gigabytes."""


@dataclass(frozen=True, slots=True)
class Objects:
    """Annotated objects of one picture, of the classes that the detector knows.

    `boxes`: float64 (n, 4), left, top, right, bottom in pixels. `class_ids`: int64 (n,). `crowd`: bool (n,),
    COCO's `iscrowd`. `difficult`: bool (n,), `difficult` of Pascal VOC. A detector need not find crowds and
    difficult objects, and its detections of them are not counted. The IoU with a crowd is the share of the
    detection's area that the crowd covers.
    """

    boxes: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections of one picture.

    `boxes`: float64 (n, 4), left, top, right, bottom in pixels. `scores`: float64 (n,). `class_ids`: int64
    (n,).
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    class_ids: NDArray[np.int64]


@dataclass(frozen=True)
class ClassMatches:
    """The objects and the detections of one class in all pictures, after they were matched.

    `objects`: index of the picture of each object that has to be found, int64 (objects,). The other arrays
    have one column per detection, best first. `pictures`: index of the detection's picture, int64 (n,).
    `scores`: float64 (n,). `hit`: whether the detection finds an object, bool (thresholds, n). `ignored`:
    whether the detection is not counted, bool (thresholds, n).
    """

    class_id: int
    objects: NDArray[np.int64]
    pictures: NDArray[np.int64]
    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]

    def within(self, pictures: NDArray[np.bool_]) -> ClassMatches:
        """Return the matches in some of the pictures.

        `pictures`: for each of all pictures, whether its matches are returned, bool (all pictures,).
        """
        kept = pictures[self.pictures]
        return ClassMatches(
            self.class_id,
            self.objects[pictures[self.objects]],
            self.pictures[kept],
            self.scores[kept],
            self.hit[:, kept],
            self.ignored[:, kept],
        )

    def average_precision(self) -> NDArray[np.float64]:
        """Return the average precision at each of THRESHOLDS, float64 (10,).

        The values are NaN if there are no objects to find.
        """
        result = np.zeros(len(THRESHOLDS))
        if len(self.objects) == 0:
            return np.full_like(result, np.nan)
        rows = zip(self.hit, self.ignored, self._as_before, strict=True)
        for index, (hit, ignored, as_before) in enumerate(rows):
            if as_before:
                result[index] = result[index - 1]
                continue
            found = np.cumsum(hit[~ignored], dtype=np.float64)
            if len(found) == 0:
                continue
            precision = found / np.arange(1, len(found) + 1)
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            places = np.searchsorted(found / len(self.objects), RECALLS, side="left")
            result[index] = envelope[places[places < len(found)]].sum() / len(RECALLS)
        return result

    def resampled(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the mean average precision over THRESHOLDS for each column of `weights`, float64 (columns,).

        `weights`: how often each picture counts, float32 (pictures, columns). The result is NaN for a column
        in which no object counts.
        """
        columns = max(1, _MOST_AT_ONCE // max(1, len(self.pictures)))
        parts = [
            self._resampled(weights[:, start : start + columns])
            for start in range(0, weights.shape[1], columns)
        ]
        return np.concatenate([np.zeros(0), *parts])

    @cached_property
    def _as_before(self) -> list[bool]:
        """Whether the matches at each threshold equal the matches at the threshold before it.

        If they do, the figures of the threshold before are used again. This is often so if there are few
        detections.
        """
        same = [(rows[1:] == rows[:-1]).all(axis=1) for rows in (self.hit, self.ignored)]
        return [False, *(same[0] & same[1]).tolist()]

    def _resampled(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        wanted = weights[self.objects].sum(axis=0)
        total = np.zeros(weights.shape[1])
        weight = weights[self.pictures]
        counted = np.cumsum(weight, axis=0)
        scale = 100 / np.maximum(wanted, 1)
        first = rest = np.zeros(0)
        for hit, ignored, as_before in zip(self.hit, self.ignored, self._as_before, strict=True):
            # the precision envelope changes at hits only
            hits, others = np.flatnonzero(hit), np.flatnonzero(ignored)
            if len(hits) == 0:
                continue
            if as_before:
                total += first
                total += rest
                continue
            found = np.cumsum(weight[hits], axis=0)
            precision = counted[hits]
            if len(others):
                before = np.searchsorted(others, hits)
                precision[before > 0] -= np.cumsum(weight[others], axis=0)[before[before > 0] - 1]
            np.divide(found, np.maximum(precision, 1, out=precision), out=precision)
            np.maximum.accumulate(precision[::-1], axis=0, out=precision[::-1])
            # number of RECALLS reached at each hit; its steps tell how often each precision counts
            found *= scale
            found += _NEARLY
            np.floor(found, out=found)
            first = precision[0] * (found[0] + 1)
            rest = np.einsum("ij,ij->j", precision[1:], np.diff(found, axis=0))
            total += first
            total += rest
        total[wanted == 0] = np.nan
        return total / (len(RECALLS) * len(THRESHOLDS))


def match_classes(objects: Sequence[Objects], detections: Sequence[Detections]) -> tuple[ClassMatches, ...]:
    """Match the detections of each picture with its objects as COCO does, by class id.

    Classes that have no object in any picture are left out, with their detections. In each picture and class,
    detections are matched one by one, best first. A detection takes the object that it overlaps most among
    those that have to be found. If it overlaps none of these enough, it takes, in the same way, an object
    that need not be found. If it overlaps several objects equally, it takes the last of them. Detections with
    equal scores keep the given order of pictures and detections.

    Raises ValueError if `objects` and `detections` do not have the same number of pictures.
    """
    if len(objects) != len(detections):
        raise ValueError(f"objects of {len(objects)} pictures and detections of {len(detections)}")
    truth, ignored, reusable, classes = _flat_objects(objects)
    found = _flat_detections(detections, classes)
    hit, not_counted = _assign(truth, ignored, reusable, found, len(classes))
    order = np.lexsort((-found.scores, found.classes))
    bounds = np.searchsorted(found.classes[order], np.arange(len(classes) + 1))
    matches = []
    for index, class_id in enumerate(classes.tolist()):
        rows = order[bounds[index] : bounds[index + 1]]
        wanted = truth.pictures[(truth.classes == index) & ~ignored]
        pictures, scores = found.pictures[rows], found.scores[rows]
        matches.append(ClassMatches(class_id, wanted, pictures, scores, hit[:, rows], not_counted[:, rows]))
    return tuple(matches)


@dataclass(frozen=True, slots=True)
class _Boxes:
    """The boxes of objects or of detections in all pictures.

    `classes`: for each box, the index of its class among the classes that count. `pictures`: for each box,
    the index of its picture.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    pictures: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> _Boxes:
        return _Boxes(self.boxes[rows], self.scores[rows], self.classes[rows], self.pictures[rows])

    def groups(self, classes: int) -> NDArray[np.int64]:
        """Return for each box a number that identifies its picture and class, int64 (n,)."""
        return self.pictures * classes + self.classes


def _pictures(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(lengths)), lengths)


def _flat_objects(
    objects: Sequence[Objects],
) -> tuple[_Boxes, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """Return the objects of all pictures, sorted by picture, class and whether they have to be found.

    Also returns, for each object, whether it need not be found, and whether it is a crowd. The last item of
    the result has the ids of the classes.
    """
    ids = np.concatenate([np.zeros(0, np.int64), *(each.class_ids for each in objects)])
    crowd = np.concatenate([np.zeros(0, bool), *(each.crowd for each in objects)])
    difficult = np.concatenate([np.zeros(0, bool), *(each.difficult for each in objects)])
    boxes = np.concatenate([np.zeros((0, 4)), *(each.boxes.reshape(-1, 4) for each in objects)])
    classes, positions = np.unique(ids, return_inverse=True)
    flat = _Boxes(boxes, np.ones(len(ids)), positions, _pictures([len(each.class_ids) for each in objects]))
    order = np.lexsort((crowd | difficult, flat.classes, flat.pictures))
    return flat.take(order), (crowd | difficult)[order], crowd[order], classes


def _flat_detections(detections: Sequence[Detections], classes: NDArray[np.int64]) -> _Boxes:
    """Return the best MAX_DETECTIONS of each picture and class, sorted by picture, class and score."""
    ids = np.concatenate([np.zeros(0, np.int64), *(each.class_ids for each in detections)])
    flat = _Boxes(
        np.concatenate([np.zeros((0, 4)), *(each.boxes.reshape(-1, 4) for each in detections)]),
        np.concatenate([np.zeros(0), *(each.scores for each in detections)]),
        np.searchsorted(classes, ids),
        _pictures([len(each.class_ids) for each in detections]),
    )
    flat = flat.take(np.flatnonzero(np.isin(ids, classes)))
    flat = flat.take(np.lexsort((-flat.scores, flat.classes, flat.pictures)))
    groups = flat.groups(len(classes))
    rank = np.arange(len(groups)) - np.searchsorted(groups, groups, side="left")
    return flat.take(np.flatnonzero(rank < MAX_DETECTIONS))


def _assign(
    truth: _Boxes, ignored: NDArray[np.bool_], crowd: NDArray[np.bool_], found: _Boxes, classes: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Match detections with objects. Return whether each detection hits an object, and whether it is ignored.

    Both arrays are bool (thresholds, detections).
    """
    hit = np.zeros((len(THRESHOLDS), len(found.scores)), bool)
    not_counted = np.zeros_like(hit)
    taken = np.zeros((len(THRESHOLDS), len(ignored)), bool)
    detection, target, iou = _overlaps(truth, crowd, found, classes)
    if len(iou) == 0:
        return hit, not_counted
    groups = found.groups(classes)
    having = np.unique(detection)
    rank = np.arange(len(having)) - np.searchsorted(groups[having], groups[having], side="left")
    rank = rank[np.searchsorted(having, detection)]
    # a detection takes the last one, in this order, of the objects that it may take
    order = np.lexsort((target, iou, ~ignored[target], detection, rank))
    detection, target, iou, rank = detection[order], target[order], iou[order], rank[order]
    bounds = np.searchsorted(rank, np.arange(rank[-1] + 2))
    # Detections of equal rank belong to different pictures or classes, so they are matched independently.
    for start, end in itertools.pairwise(bounds.tolist()):
        candidate, score = target[start:end], iou[start:end]
        free = ~taken[:, candidate] | ignored[candidate]
        possible = free & (score >= THRESHOLDS[:, None])
        chooser, first = np.unique(detection[start:end], return_index=True)
        chosen = np.maximum.reduceat(np.where(possible, np.arange(end - start), -1), first, axis=1)
        threshold, place = np.nonzero(chosen >= 0)
        match = candidate[chosen[threshold, place]]
        taken[threshold, match] = True
        hit[threshold, chooser[place]] = ~ignored[match]
        not_counted[threshold, chooser[place]] = ignored[match]
    return hit, not_counted


def _overlaps(
    truth: _Boxes, crowd: NDArray[np.bool_], found: _Boxes, classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the pairs of a detection and an object that overlap by at least the lowest of THRESHOLDS.

    The detection and the object of a pair are of the same picture and class. Returns three arrays with one
    item per pair: the index of the detection, the index of the object, and their IoU.
    """
    groups = truth.groups(classes)
    start = np.searchsorted(groups, found.groups(classes), side="left")
    count = np.searchsorted(groups, found.groups(classes), side="right") - start
    before = np.cumsum(count) - count
    cuts = np.searchsorted(before, np.arange(0, int(count.sum()), _MOST_AT_ONCE // 16), side="left")
    parts = [
        _overlaps_of(np.arange(first, last), truth, crowd, found, start, count)
        for first, last in itertools.pairwise([*np.unique(cuts).tolist(), len(count)])
    ]
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    detection, target, iou = (np.concatenate(arrays) for arrays in zip(none, *parts, strict=True))
    return detection, target, iou


def _overlaps_of(
    rows: NDArray[np.int64],
    truth: _Boxes,
    crowd: NDArray[np.bool_],
    found: _Boxes,
    start: NDArray[np.int64],
    count: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the pairs that `_overlaps` returns, but only for the detections with the indices `rows`.

    `start` and `count`: for each detection, the index of the first object of its picture and class, and the
    number of these objects.
    """
    many = count[rows]
    detection = np.repeat(rows, many)
    target = np.arange(len(detection)) - np.repeat(np.cumsum(many) - many, many) + start[detection]
    one, other = found.boxes[detection], truth.boxes[target]
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    overlapping = np.flatnonzero((sides > 0).all(axis=1))
    detection, target = detection[overlapping], target[overlapping]
    common = sides[overlapping].prod(axis=1)
    area, other_area = (
        (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for boxes in (one[overlapping], other[overlapping])
    )
    iou = common / np.where(crowd[target], area, area + other_area - common)
    enough = np.flatnonzero(iou >= THRESHOLDS[0])
    return detection[enough], target[enough], iou[enough]
