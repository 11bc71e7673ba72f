"""Cards of detectors: each decoder has the outputs it needs, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from models.zoo.card import Card, read_card, write_card
from models.zoo.detection import SsdAnchors

SSD: dict[str, Any] = {
    "kind": "ssd-anchors",
    "strides": [16, 32, 64, 128, 256, 512],
    "min_scale": 0.2,
    "max_scale": 0.95,
    "aspect_ratios": [1.0, 2.0, 0.5, 3.0, 0.3333],
}
PIXELS: dict[str, Any] = {"kind": "decoded-boxes", "format": "xyxy", "unit": "pixels"}
SELECTED: dict[str, Any] = {"kind": "selected-boxes", "format": "yxyx", "unit": "fractions"}
CENTRES: dict[str, Any] = {"kind": "centre-points", "stride": 4, "landmarks": 5}


def card(outputs: dict[str, Any], decoder: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The fields of a card of a detector with an input of 300 x 300 pixels and 23 classes."""
    detection = {"decoder": decoder, "min_score": 0.4} | fields.pop("detection", {})
    return {
        "schema_version": 2,
        "name": "detector",
        "task": "object-detection",
        "labels": "things",
        "classes": 23,
        "architecture": "ssd",
        "block": "inverted-residual",
        "precision": "fp32",
        "input": {
            "height": 300,
            "width": 300,
            "fitting": "stretch",
            "mean": [127.5] * 3,
            "std": [127.5] * 3,
            "interpolation": "bilinear",
        },
        "outputs": outputs,
        "detection": detection,
        "parameters": 1,
        "macs": 1,
        "file": {
            "name": "model.onnx",
            "bytes": 1,
            "sha256": "0" * 64,
            "opset": 18,
            "initializer_elements": 1,
        },
        "source": {"weights": "none", "licence": "none"},
    } | fields


SSD_OUTPUTS: dict[str, Any] = {"boxes": [1917, 4], "scores": [1917, 24], "class_offset": 1}
CENTRE_OUTPUTS: dict[str, Any] = {
    "heatmap": [23, 75, 75],
    "size": [2, 75, 75],
    "offset": [2, 75, 75],
    "landmarks": [10, 75, 75],
}

VALID: dict[str, dict[str, Any]] = {
    "SSD": card(SSD_OUTPUTS, SSD),
    "CenterFace": card(CENTRE_OUTPUTS, CENTRES),
    "centres without landmarks": card(
        {key: CENTRE_OUTPUTS[key] for key in ("heatmap", "size", "offset")}, CENTRES | {"landmarks": 0}
    ),
    "scores per class": card({"boxes": [50, 4], "scores": [50, 23]}, PIXELS),
    "classes first": card(
        {"boxes": [50, 4], "scores": [23, 50]}, PIXELS | {"scores_layout": "classes-boxes"}
    ),
    "TensorFlow": card({"boxes": [50, 4], "scores": [50], "classes": [50], "count": []}, PIXELS),
    "count with a side": card({"boxes": [50, 4], "scores": [50], "classes": [50], "count": [1]}, PIXELS),
    "torchvision": card({"boxes": [4], "scores": [], "classes": []}, PIXELS | {"boxes_first": True}),
    "DETR": card(
        {"boxes": [50, 4], "scores": [50, 24]},
        PIXELS | {"no_object": True, "activation": "softmax", "unit": "fractions", "format": "cxcywh"},
    ),
    "one class": card({"boxes": [50, 4], "scores": [50]}, PIXELS, classes=1),
    "one class in a column": card({"boxes": [50, 4], "scores": [50, 1]}, PIXELS, classes=1),
    "NonMaxSuppression": card(
        {"boxes": [50, 4], "scores": [23, 50], "selected": [3]}, SELECTED, detection={"suppression": "none"}
    ),
}


@pytest.mark.parametrize("kind", VALID)
def test_valid_detectors(kind: str, tmp_path: Path) -> None:
    read = Card.model_validate(VALID[kind])
    assert read.detection is not None
    assert (read.detection.max_detections, read.detection.candidates, read.detection.iou) == (100, 400, 0.5)
    assert set(read.output_shapes) == set(VALID[kind]["outputs"]) - {"class_offset"}
    write_card(tmp_path, read)
    assert read_card(tmp_path) == read


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "version 1": (card(SSD_OUTPUTS, SSD, schema_version=1), "detection, .*: not in version 1"),
    "no decoder": (card(SSD_OUTPUTS, SSD) | {"detection": None}, "detection: missing"),
    "a classifier with a decoder": (
        card(SSD_OUTPUTS, SSD, task="image-classification"),
        "detection: not a field of task image-classification",
    ),
    "an unknown decoder": (card(SSD_OUTPUTS, {"kind": "magic"}), "'ssd-anchors', 'centre-points'"),
    "anchors that do not fit": (
        card(SSD_OUTPUTS | {"boxes": [1900, 4]}, SSD),
        r"outputs.boxes is \(1900, 4\) \(needed by ssd-anchors: \(1917, 4\)\)",
    ),
    "no background column": (
        card(SSD_OUTPUTS | {"class_offset": 0}, SSD),
        r"outputs.scores is \(1917, 24\) \(needed by ssd-anchors: \(1917, 23\)\)",
    ),
    "an output missing": (
        card({"boxes": [1917, 4]}, SSD),
        r"outputs.scores: missing \(needed by ssd-anchors: boxes, scores\)",
    ),
    "an output of another decoder": (
        card(SSD_OUTPUTS | {"heatmap": [1, 75, 75]}, SSD),
        "outputs.heatmap: not an output of ssd-anchors",
    ),
    "logits": (card(SSD_OUTPUTS | {"logits": [23]}, SSD), "outputs.logits: not a field of task object"),
    "an activation of logits": (
        card(SSD_OUTPUTS | {"activation": "sigmoid"}, SSD),
        "outputs.activation: not a field of task object-detection",
    ),
    "accuracy": (
        card(SSD_OUTPUTS, SSD, accuracy={"value": 1, "kind": "reported", "dataset": "x", "n": 1, "how": "x"}),
        "accuracy: not a field of task object-detection",
    ),
    "a coarser heat map": (
        card(CENTRE_OUTPUTS | {"heatmap": [23, 38, 38]}, CENTRES),
        r"outputs.heatmap is \(23, 38, 38\) \(needed by centre-points: \(23, 75, 75\)\)",
    ),
    "one box short of scores": (
        card({"boxes": [50, 4], "scores": [49, 23]}, PIXELS),
        r"outputs.scores is \(49, 23\) \(needed by decoded-boxes: \(50, 23\)\)",
    ),
    "boxes of five numbers": (card({"boxes": [50, 5], "scores": [50, 23]}, PIXELS), r"boxes is \(50, 5\)"),
    "softmax of one class": (
        card({"boxes": [50, 4], "scores": [50]}, PIXELS | {"activation": "softmax"}, classes=1),
        "the softmax of a single class is always 1",
    ),
    "suppression twice": (
        card({"boxes": [50, 4], "scores": [23, 50], "selected": [3]}, SELECTED),
        r"suppression by-class: the graph has suppressed boxes already \(allowed: none\)",
    ),
    "strides that repeat": (card(SSD_OUTPUTS, SSD | {"strides": [16, 16]}), "strides .*: not increasing"),
    "a scale of zero": (card(SSD_OUTPUTS, SSD | {"min_scale": 0}), "scales 0.0 to 0.95"),
    "more detections than candidates": (
        card(SSD_OUTPUTS, SSD, detection={"max_detections": 500}),
        "max_detections 500",
    ),
    "a score above 1": (card(SSD_OUTPUTS, SSD, detection={"min_score": 1.1}), "min_score"),
}


@pytest.mark.parametrize("kind", INVALID)
def test_invalid_detectors(kind: str) -> None:
    fields, reason = INVALID[kind]
    with pytest.raises(ValueError, match=reason):
        Card.model_validate(fields)


def test_classifier_without_logits() -> None:
    fields = card({"embedding": [10]}, SSD, task="image-classification") | {"detection": None}
    with pytest.raises(ValueError, match=r"outputs.logits: missing"):
        Card.model_validate(fields)


def test_classifier_with_boxes() -> None:
    fields = card({"logits": [23], "boxes": [10, 4]}, SSD, task="image-classification") | {"detection": None}
    with pytest.raises(ValueError, match=r"outputs.boxes: not an output of task image-classification"):
        Card.model_validate(fields)


@pytest.mark.parametrize(
    ("size", "strides", "reduced", "expected"),
    [
        ((300, 300), (16, 32, 64, 128, 256, 512), True, 1917),
        ((300, 300), (16, 32), False, 2766),
        ((32, 64), (16,), True, 24),
    ],
)
def test_number_of_anchors(
    size: tuple[int, int], strides: tuple[int, ...], reduced: bool, expected: int
) -> None:
    spec = SSD | {"strides": strides, "reduce_boxes_in_lowest_layer": reduced}
    assert SsdAnchors.model_validate(spec).anchors(*size) == expected


def test_documented_detector() -> None:
    """docs/models.md shows the outputs and the decoder of a valid detector."""
    page = (Path(__file__).parents[3] / "docs/models.md").read_text()
    (example,) = re.findall(r"```text\n(\"outputs\": .+?)```", page, re.DOTALL)
    Card.model_validate(VALID["SSD"] | json.loads("{" + example + "}"))
