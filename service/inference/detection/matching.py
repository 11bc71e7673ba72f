"""Match the objects that several detectors find in the same image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a box."""

MIN_IOU = 0.5
"""Lowest intersection over union at which two boxes count as boxes of the same object."""


@dataclass(frozen=True)
class Seen:
    """What one detector reports for an object: the label, the score, and the box."""

    label: str
    score: float
    box: Box


@dataclass
class MatchedObject:
    """An object that at least one detector found.

    `found_by` maps the index of each detector that found the object to the index of the detection among this
    detector's detections. `first`: the index of the detector with the highest score. `iou`: the lowest
    intersection over union between the box of `first` and the box of another detector; None if only one
    detector found the object.
    """

    first: int
    found_by: dict[int, int] = field(default_factory=dict)
    iou: float | None = None


def match_objects(detectors: Sequence[Sequence[Seen]]) -> tuple[MatchedObject, ...]:
    """Group the detections of several detectors into objects. The object with the highest score comes first.

    Detections are processed in descending order of score. Of detections with equal scores, the one of the
    earlier detector comes first. A detection is added to an object if its detector has not found this object
    yet and the intersection over union of its box with the object's first box is at least MIN_IOU. If several
    objects qualify, one with the same label is preferred, and then the one with the largest overlap. If no
    object qualifies, the detection becomes a new object.
    """
    order = sorted(
        ((detector, number) for detector, found in enumerate(detectors) for number in range(len(found))),
        key=lambda place: (-detectors[place[0]][place[1]].score, place),
    )
    objects: list[MatchedObject] = []
    for detector, number in order:
        seen = detectors[detector][number]
        best: tuple[bool, float, int] | None = None
        for index, known in enumerate(objects):
            if detector in known.found_by:
                continue
            first = detectors[known.first][known.found_by[known.first]]
            overlap = intersection_over_union(seen.box, first.box)
            rank = (seen.label.casefold() == first.label.casefold(), overlap, -index)
            if overlap >= MIN_IOU and (best is None or rank > best):
                best = rank
        if best is None:
            objects.append(MatchedObject(detector, {detector: number}))
            continue
        joined = objects[-best[2]]
        joined.found_by[detector] = number
        joined.iou = best[1] if joined.iou is None else min(joined.iou, best[1])
    return tuple(objects)


def intersection_over_union(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes. It is 0 if they do not overlap."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both)
