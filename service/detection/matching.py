"""Match the objects that several detectors find in one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

MIN_IOU = 0.5
"""Intersection over union from which two boxes are of one object."""


@dataclass(frozen=True)
class Seen:
    """One detection: what was found, how surely, and where."""

    label: str
    score: float
    box: Box


@dataclass
class MatchedObject:
    """An object that at least one detector found.

    `found_by`: index of the detection, by index of the detector. `first`: index of the detector with the
    highest score. `iou`: lowest intersection over union of another detector's box with the box of `first`;
    None if only one detector found the object.
    """

    first: int
    found_by: dict[int, int] = field(default_factory=dict)
    iou: float | None = None


def match_objects(detectors: Sequence[Sequence[Seen]]) -> tuple[MatchedObject, ...]:
    """Group the detections of several detectors into objects, the surest first.

    Detections are taken in order of score, ties by detector. Each joins an object that its detector has not
    found yet and whose first box it overlaps by at least MIN_IOU: one with the same label is preferred, then
    the one with the largest overlap. If there is no such object, the detection starts a new one.
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
    """Return the intersection over union of two boxes; 0 if they do not overlap."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both)
