"""Recognise a detector's outputs: boxes and scores, ONNX's NonMaxSuppression, or one combined output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from models.onnx_tools.detections import Part, find_suppression
from models.zoo.detection import Role
from service.errors import RefusedModel
from service.own_models.facts import Rank
from service.own_models.trial import Ran

ScoresLayout = Literal["boxes-classes", "classes-boxes"]
_FORMAT, _UNIT = "detection.decoder.format", "detection.decoder.unit"
_MOST_FRACTION = 4.0
"""If boxes on noise have larger coordinates than this, their unit is pixels.

Coordinates that are fractions of the image's sides stay near 0 to 1."""
_ENOUGH_BOXES = 20
"""Minimum number of boxes on noise from which the order of a box's numbers is guessed."""


@dataclass(frozen=True)
class Boxes:
    """The outputs of a detector, and how they are read.

    `kind`: the decoder. `parts`: where the values of each role, such as `scores`, are. `columns`: number of
    scores per box, including those for background or no object. It is None in two cases: the detector returns
    class ids instead (role `classes` in `parts`), or `kind` is "selected-boxes". `scores_layout`: the order
    of the scores' two dimensions. `boxes_first`: whether the outputs have no dimension for the batch.
    `suppressed`: whether the graph has already removed overlapping boxes. `facts`: what the outputs suggest,
    as (value, rank, detail) by the path of the card's field.
    """

    kind: Literal["decoded-boxes", "selected-boxes"]
    parts: Mapping[Role, Part]
    columns: int | None
    scores_layout: ScoresLayout = "boxes-classes"
    boxes_first: bool = False
    suppressed: bool = False
    facts: Mapping[str, tuple[Any, Rank, str]] = field(default_factory=dict)


def find_boxes(
    content: bytes, ran: Sequence[Ran], classes: Sequence[int], *, from_pytorch: bool
) -> Boxes | None:
    """Return how the outputs `ran` of a run on noise are read, or None if they are not those of a detector.

    `classes`: the possible numbers of class scores per box; the first item is the number of labels. They are
    used if a single output has both boxes and scores. `from_pytorch`: whether corners are assumed to be in
    the order of PyTorch's networks. Raises RefusedModel if there are boxes, but no scores or no classes. The
    message says what is missing.
    """
    suppression = find_suppression(content)
    if suppression is not None:
        value: Any = "cxcywh" if suppression.centre else ("xyxy" if from_pytorch else "yxyx")
        rank = Rank.FORCED if suppression.centre else Rank.ASSUMED
        words = "its NonMaxSuppression, which takes any two corners"
        if suppression.centre:
            words = "its NonMaxSuppression, whose center_point_box is 1"
        parts: dict[Role, Part] = {
            "boxes": Part(suppression.boxes),
            "scores": Part(suppression.scores),
            "selected": Part(suppression.selected),
        }
        return Boxes("selected-boxes", parts, None, suppressed=True, facts={_FORMAT: (value, rank, words)})
    boxes = [output for output in ran if _is_boxes(output)]
    if boxes:
        named = [one for one in boxes if one.name.lower() in ("detection_boxes", "pred_boxes", "boxes")]
        return _with_scores((named or boxes)[0], ran)
    single = [output for output in ran if output.dtype.startswith("float")]
    return _combined(single[0], classes) if len(single) == 1 else None


def _is_boxes(output: Ran) -> bool:
    """Return whether an output may be boxes, given its shape and name.

    Its shape must be (1, N, 4), or (N, 4) for any number N of boxes.
    """
    shape = output.shape
    if not output.dtype.startswith("float") or shape[-1:] != (4,):
        return False
    return len(shape) == 3 or (len(shape) == 2 and (shape[0] != 1 or "box" in output.name.lower()))


def _with_scores(boxes: Ran, ran: Sequence[Ran]) -> Boxes:
    """Find the scores and classes that belong to the output `boxes`, and return how they are read.

    Raises RefusedModel if the scores are missing or unclear.
    """
    first = len(boxes.shape) == 2
    rows = boxes.shape[0] if first else boxes.shape[1]
    batch = () if first else boxes.shape[:1]
    per_box = [one for one in ran if one.shape == (*batch, rows)]
    ids = [one for one in per_box if "int" in one.dtype or _named(one, "class", "label")]
    floats = [one for one in per_box if one.dtype.startswith("float") and one not in ids]
    matrices = [
        one
        for one in ran
        if one is not boxes
        and one.dtype.startswith("float")
        and len(one.shape) == len(batch) + 2
        and one.shape[: len(batch)] == batch
        and not _named(one, "box", "anchor")
        and rows in one.shape[len(batch) :]
    ]
    listed = ", ".join(f"'{one.name}' {one.dtype} {one.shape}" for one in ran)
    parts: dict[Role, Part] = {"boxes": Part(boxes.name)}
    facts = _named_facts(boxes.name)
    count = [one for one in ran if math.prod(one.shape) == 1 and _named(one, "num", "count")]
    if len(ids) == 1 and len(floats) == 1:
        parts |= {"scores": Part(floats[0].name), "classes": Part(ids[0].name)}
        if count:
            parts["count"] = Part(count[0].name)
        if first and {"boxes", "labels", "scores"} <= {one.name for one in ran}:
            facts |= {
                _FORMAT: ("xyxy", Rank.FILE, "its outputs are named as torchvision's"),
                _UNIT: ("pixels", Rank.FILE, "its outputs are named as torchvision's"),
                "outputs.class_offset": (1, Rank.FILE, "its outputs are named as torchvision's"),
                "input.mean": ((0.0,), Rank.ASSUMED, "0 to 1: torchvision's detectors normalise inside"),
                "input.std": ((255.0,), Rank.ASSUMED, "0 to 1: torchvision's detectors normalise inside"),
            }
        return Boxes("decoded-boxes", parts, None, boxes_first=first, suppressed=True, facts=facts)
    if len(matrices) == 1:
        scores = matrices[0]
        columns_last = scores.shape[len(batch)] == rows
        columns = scores.shape[-1] if columns_last else scores.shape[-2]
        parts["scores"] = Part(scores.name)
        if not columns_last and first:
            raise RefusedModel(f"outputs: {listed}; scores of shape (classes, boxes), without a batch")
        layout: ScoresLayout = "boxes-classes" if columns_last else "classes-boxes"
        return Boxes("decoded-boxes", parts, columns, layout, boxes_first=first, facts=facts)
    if len(floats) == 1 and not ids:
        parts["scores"] = Part(floats[0].name)
        return Boxes("decoded-boxes", parts, 1, boxes_first=first, facts=facts)
    shapes = f"{(*batch, rows)} with class ids, or {(*batch, rows, 'classes')}"
    if floats or matrices or ids:
        raise RefusedModel(
            f"outputs: {listed}, as a detection network has; it is not clear which has the scores of "
            f"'{boxes.name}' (allowed: one output {shapes})"
        )
    raise RefusedModel(
        f"outputs: {listed}, as a detection network has; missing: scores of the boxes in '{boxes.name}' "
        f"(allowed: {shapes})"
    )


def _named_facts(name: str) -> dict[str, tuple[Any, Rank, str]]:
    """Return the facts that the name of the output with the boxes suggests."""
    if name.lower() in ("detection_boxes", "raw_detection_boxes"):
        words = "its outputs are named as those of TensorFlow's Object Detection API"
        return {
            _FORMAT: ("yxyx", Rank.FILE, words),
            _UNIT: ("fractions", Rank.FILE, words),
            "outputs.class_offset": (1, Rank.FILE, words),
        }
    if name.lower() == "pred_boxes":
        words = "its outputs are named as DETR's"
        return {_FORMAT: ("cxcywh", Rank.FILE, words), _UNIT: ("fractions", Rank.FILE, words)}
    return {}


def _combined(output: Ran, classes: Sequence[int]) -> Boxes | None:
    """Return how to read a single output with both boxes and scores, such as that of a YOLO exporter.

    Return None if the output does not have both.
    """
    shape, name = output.shape, output.name
    if len(shape) == 2 and shape[1] == 7:
        parts: dict[Role, Part] = {
            "boxes": Part(name, 1, 5),
            "classes": Part(name, 5, 6, one=True),
            "scores": Part(name, 6, 7, one=True),
        }
        facts = {_FORMAT: ("xyxy", Rank.FILE, "rows of image, four corners, class, score, as YOLOv7 writes")}
        return Boxes("decoded-boxes", parts, None, boxes_first=True, suppressed=True, facts=facts)
    if len(shape) != 3 or min(shape[1:]) < 5:
        return None
    turned = shape[1] < shape[2] and (shape[1] - 4 in classes or shape[2] - 4 not in classes)
    sides = shape[1] if turned else shape[2]
    if not turned and sides == 6 and output.values and _integers(output.values[5::6]):
        parts = {
            "boxes": Part(name, 0, 4),
            "scores": Part(name, 4, 5, one=True),
            "classes": Part(name, 5, 6, one=True),
        }
        words = "rows of four corners, score, class"
        facts = {_FORMAT: ("xyxy", Rank.ASSUMED, words)}
        return Boxes("decoded-boxes", parts, None, suppressed=True, facts=facts)
    centres = {_FORMAT: ("cxcywh", Rank.ASSUMED, "as YOLO's exporters write one output")}
    if turned:
        parts = {"boxes": Part(name, 0, 4, axis=1, turned=True), "scores": Part(name, 4, axis=1)}
        layout: ScoresLayout = "classes-boxes"
        return Boxes("decoded-boxes", parts, sides - 4, layout, facts=centres)
    # One score more than labels: the first is an objectness, rather than the score of a background class.
    objectness = sides - 5 in classes[:1] and sides - 4 not in classes[:1]
    if not objectness and sides - 4 not in classes:
        return None
    scores = Part(name, 5, times=4) if objectness else Part(name, 4)
    columns = sides - 5 if objectness else sides - 4
    return Boxes("decoded-boxes", {"boxes": Part(name, 0, 4), "scores": scores}, columns, facts=centres)


def _integers(values: Sequence[float]) -> bool:
    return all(value == round(value) for value in values)


def _named(output: Ran, *words: str) -> bool:
    return any(word in output.name.lower() for word in words)


def box_format(sample: Sequence[float], *, tensorflow: bool) -> tuple[str, Rank, str]:
    """Guess the order of a box's four numbers, and return it as (value, rank, detail).

    `sample`: the boxes that the model returns for an image of noise. `tensorflow`: whether the network is
    from TensorFlow, whose order is different.
    """
    boxes = [sample[at : at + 4] for at in range(0, len(sample) - 3, 4)]
    turned = sum(box[2] < box[0] or box[3] < box[1] for box in boxes)
    if len(boxes) >= _ENOUGH_BOXES and turned > len(boxes) / 20:
        return (
            "cxcywh",
            Rank.FILE,
            f"on noise, read as corners, {turned} of {len(boxes)} boxes end before they begin",
        )
    if tensorflow:
        return "yxyx", Rank.ASSUMED, "most common of networks from TensorFlow"
    return "xyxy", Rank.ASSUMED, "most common of networks from PyTorch"


def box_unit(sample: Sequence[float]) -> tuple[str, Rank, str]:
    """Guess whether boxes are in pixels or in fractions of the sides, and return it as (value, rank, detail).

    `sample`: the boxes that the model returns for an image of noise.
    """
    if not any(sample):  # some exporters fill the places of missing boxes with zeros
        return "pixels", Rank.ASSUMED, "it finds nothing in noise; most common"
    most = max(map(abs, sample))
    if most > _MOST_FRACTION:
        return "pixels", Rank.FILE, f"on noise its boxes reach {most:.4g}"
    return "fractions", Rank.ASSUMED, f"on noise its boxes reach {most:.4g}"
