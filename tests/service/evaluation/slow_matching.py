"""Average precision as plain loops over Python numbers, to check the fast one against."""

from __future__ import annotations

from collections.abc import Sequence

from service.evaluation.average_precision import RECALLS, Detections, Objects

Box = tuple[float, ...]


def slow_average_precision(
    objects: Sequence[Objects], detections: Sequence[Detections], class_id: int, threshold: float
) -> float | None:
    """Return the average precision of a class; None without objects that have to be found."""
    wanted, outcomes = 0, []
    for truth, found in zip(objects, detections, strict=True):
        targets = [
            (tuple(box), bool(crowd), bool(crowd or difficult))
            for box, number, crowd, difficult in zip(
                truth.boxes.tolist(), truth.class_ids.tolist(), truth.crowd, truth.difficult, strict=True
            )
            if number == class_id
        ]
        wanted += sum(not ignored for *_, ignored in targets)
        candidates = [
            (score, tuple(box))
            for box, score, number in zip(
                found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True
            )
            if number == class_id
        ]
        taken: set[int] = set()
        for score, box in sorted(candidates, key=lambda pair: -pair[0])[:100]:
            best: tuple[bool, float, int] | None = None
            for number, (target, crowd, ignored) in enumerate(targets):
                iou = overlap(box, target, crowd)
                rank = (not ignored, iou, number)
                free = ignored or number not in taken
                if free and iou >= threshold and (best is None or rank > best):
                    best = rank
            if best is None:
                outcomes.append((score, False))
            elif best[0]:
                taken.add(best[2])
                outcomes.append((score, True))
    if wanted == 0:
        return None
    points, hits = [], 0
    for count, (_, hit) in enumerate(sorted(outcomes, key=lambda pair: -pair[0]), 1):
        hits += hit
        points.append((hits / wanted, hits / count))
    return (
        sum(
            max((precision for recall, precision in points if recall >= least), default=0.0)
            for least in RECALLS.tolist()
        )
        / 101
    )


def overlap(box: Box, target: Box, crowd: bool) -> float:
    """Return the IoU; for a crowd the share of the box that it covers."""
    wide = min(box[2], target[2]) - max(box[0], target[0])
    high = min(box[3], target[3]) - max(box[1], target[1])
    if wide <= 0 or high <= 0:
        return 0.0
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (box, target)]
    return wide * high / (areas[0] if crowd else sum(areas) - wide * high)
