"""Decoding and suppression written as plain loops over Python numbers, to check the fast ones against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from models.zoo.card import Card

Box = tuple[float, float, float, float]


class Scored(NamedTuple):
    """A candidate: the score before and after the activation, its class, box and landmarks in the input."""

    raw: float
    score: float
    class_id: int
    box: Box
    landmarks: tuple[tuple[float, float], ...] = ()


def slow_candidates(
    card: Card,
    outputs: dict[str, Any],
    min_score: float,
    limit: int,
    classes: Iterable[int] | None = None,
) -> list[Scored]:
    """Every box of every class, one after another; then filtered, sorted (stable) and cut."""
    assert card.detection is not None
    wanted = set(range(card.classes) if classes is None else classes)
    outputs = {name: value.tolist() for name, value in outputs.items()}
    everything = _DECODERS[card.detection.decoder.kind](card, outputs)
    chosen = [one for one in everything if one.class_id in wanted and one.score >= min_score]
    return sorted(chosen, key=lambda one: -one.raw)[:limit]


def slow_suppression(
    boxes: Sequence[Box], class_ids: Sequence[int], iou: float, how: str, limit: int
) -> list[int]:
    """Keep a box unless it overlaps a kept one too much."""
    kept: list[int] = []
    for number, box in enumerate(boxes):
        rivals = [
            boxes[other] for other in kept if how == "over-classes" or class_ids[other] == class_ids[number]
        ]
        if how == "none" or all(intersection_over_union(box, rival) <= iou for rival in rivals):
            kept.append(number)
    return kept[:limit]


def intersection_over_union(one: Box, other: Box) -> float:
    """Of two boxes left, top, right, bottom; 0 where one has no area."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return wide * high / (sum(areas) - wide * high)


def _activated(values: Sequence[float], activation: str) -> list[float]:
    if activation == "sigmoid":
        return [1 / (1 + math.exp(-value)) if value > -700 else 0.0 for value in values]
    if activation == "softmax":
        powers = [math.exp(value - max(values)) for value in values]
        return [power / sum(powers) for power in powers]
    return [min(1.0, max(0.0, value)) for value in values]


def _per_class(card: Card, rows: Iterable[tuple[Sequence[float], Box]], activation: str) -> Iterator[Scored]:
    """Yield a candidate for each class of each box."""
    for values, box in rows:
        scores = _activated(values, activation)
        for class_id in range(card.classes):
            column = class_id + card.class_offset
            raw = scores[column] if activation == "softmax" else values[column]
            yield Scored(raw, scores[column], class_id, box)


def _ssd(card: Card, outputs: dict[str, Any]) -> Iterator[Scored]:
    spec: Any = card.detection and card.detection.decoder
    height, width = card.input.height, card.input.width
    rows = []
    number = 0
    layers = len(spec.strides)
    scales = [
        spec.min_scale + (spec.max_scale - spec.min_scale) * layer / (layers - 1) if layers > 1
        else (spec.min_scale + spec.max_scale) / 2
        for layer in range(layers)
    ] + [1.0]  # fmt: skip
    for layer, stride in enumerate(spec.strides):
        down, across = math.ceil(height / stride), math.ceil(width / stride)
        for row in range(down):
            for column in range(across):
                kinds = [(scales[layer], ratio) for ratio in spec.aspect_ratios]
                if spec.interpolated_scale_aspect_ratio:
                    between = math.sqrt(scales[layer] * scales[layer + 1])
                    kinds.append((between, spec.interpolated_scale_aspect_ratio))
                if layer == 0 and spec.reduce_boxes_in_lowest_layer:
                    kinds = [(0.1, 1), (scales[0], 2), (scales[0], 1 / 2)]
                for scale, ratio in kinds:
                    anchor_high, anchor_wide = scale / math.sqrt(ratio), scale * math.sqrt(ratio)
                    y, x, high, wide = outputs["boxes"][number]
                    y = y / spec.box_scales[0] * anchor_high + (row + spec.anchor_offset) / down
                    x = x / spec.box_scales[1] * anchor_wide + (column + spec.anchor_offset) / across
                    high = math.exp(high / spec.box_scales[2]) * anchor_high
                    wide = math.exp(wide / spec.box_scales[3]) * anchor_wide
                    box = (
                        (x - wide / 2) * width,
                        (y - high / 2) * height,
                        (x + wide / 2) * width,
                        (y + high / 2) * height,
                    )
                    rows.append((outputs["scores"][number], box))
                    number += 1
    return _per_class(card, rows, spec.activation)


def _centres(card: Card, outputs: dict[str, Any]) -> Iterator[Scored]:
    spec: Any = card.detection and card.detection.decoder
    maps = outputs["heatmap"]
    for row in range(len(maps[0])):
        for column in range(len(maps[0][0])):
            high, wide = (math.exp(outputs["size"][axis][row][column]) * spec.stride for axis in (0, 1))
            y = (row + outputs["offset"][0][row][column] + 0.5) * spec.stride
            x = (column + outputs["offset"][1][row][column] + 0.5) * spec.stride
            left, top = x - wide / 2, y - high / 2
            points = tuple(
                (
                    left + outputs["landmarks"][2 * number + 1][row][column] * wide,
                    top + outputs["landmarks"][2 * number][row][column] * high,
                )
                for number in range(spec.landmarks)
            )
            for class_id in range(card.classes):
                raw = maps[class_id + card.class_offset][row][column]
                score = min(1.0, max(0.0, raw))
                yield Scored(raw, score, class_id, (left, top, left + wide, top + high), points)


def _corners(card: Card, box: Sequence[float]) -> Box:
    spec: Any = card.detection and card.detection.decoder
    if spec.format == "yxyx":
        top, left, bottom, right = box
    elif spec.format == "xyxy":
        left, top, right, bottom = box
    else:
        left, right = box[0] - box[2] / 2, box[0] + box[2] / 2
        top, bottom = box[1] - box[3] / 2, box[1] + box[3] / 2
    wide, high = (card.input.width, card.input.height) if spec.unit == "fractions" else (1, 1)
    return left * wide, top * high, right * wide, bottom * high


def _decoded(card: Card, outputs: dict[str, Any]) -> Iterator[Scored]:
    spec: Any = card.detection and card.detection.decoder
    boxes, scores = outputs["boxes"], outputs["scores"]
    if spec.scores_layout == "classes-boxes":
        scores = [list(column) for column in zip(*scores, strict=True)]
    count = len(boxes)
    if "count" in outputs:
        given = outputs["count"]
        count = int(given[0] if isinstance(given, list) else given)
    rows = [(score, _corners(card, box)) for score, box in zip(scores, boxes, strict=True)][:count]
    if "classes" not in outputs:
        yield from _per_class(card, rows, spec.activation)
        return
    for (raw, box), class_id in zip(rows, outputs["classes"], strict=False):
        (score,) = _activated([raw], spec.activation)
        yield Scored(raw, score, round(class_id) - card.class_offset, box)


def _selected(card: Card, outputs: dict[str, Any]) -> Iterator[Scored]:
    spec: Any = card.detection and card.detection.decoder
    for image, class_id, row in outputs["selected"]:
        if image == 0:
            column = [scores[row] for scores in outputs["scores"]]
            score = _activated(column, spec.activation)[class_id]
            raw = score if spec.activation == "softmax" else column[class_id]
            left, top, right, bottom = _corners(card, outputs["boxes"][row])
            box = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
            yield Scored(raw, score, class_id - card.class_offset, box)


_DECODERS: dict[str, Callable[[Card, dict[str, Any]], Iterator[Scored]]] = {
    "ssd-anchors": _ssd,
    "centre-points": _centres,
    "decoded-boxes": _decoded,
    "selected-boxes": _selected,
}
