"""Small real detectors that find saturated colours: a grid of cells, each scored for red, green and blue."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CLASSES = ("red", "green", "blue")
STRIDE = 4
BOX = 12
"""Side of every box, in pixels of the network's input."""
SIDE = 64

DECODERS: dict[str, dict[str, Any]] = {
    "centre-points": {"kind": "centre-points", "stride": STRIDE, "landmarks": 1},
    "ssd-anchors": {
        "kind": "ssd-anchors",
        "strides": [STRIDE],
        "min_scale": BOX / SIDE,
        "max_scale": BOX / SIDE,
        "aspect_ratios": [1.0],
        "interpolated_scale_aspect_ratio": None,
        "reduce_boxes_in_lowest_layer": False,
    },
    "decoded-boxes": {"kind": "decoded-boxes", "format": "xyxy", "unit": "pixels"},
    "one-class-a-box": {"kind": "decoded-boxes", "format": "yxyx", "unit": "fractions"},
    "boxes-first": {"kind": "decoded-boxes", "format": "cxcywh", "unit": "pixels", "boxes_first": True},
    "selected-boxes": {"kind": "selected-boxes", "format": "yxyx", "unit": "fractions"},
}
"""The decoders of cards, by the kind of network that `save_detector` writes for them."""


def save_detector(
    zoo: Path,
    name: str = "colours",
    kind: str = "centre-points",
    size: tuple[int, int] = (SIDE, SIDE),
    **card: Any,
) -> Path:
    """Write a detector with card and labels to `zoo/name` and return that folder.

    A cell's score of a colour is the mean, over its 4 x 4 pixels, of that channel minus the two others, in
    0 to 1; its box of 12 x 12 pixels has the same centre. `size`: (height, width) of the input, each a
    multiple of 4. `card` replaces fields of the card; of `input` and `detection`, single ones.
    """
    nodes, outputs, constants = _network(kind, size)
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, *size])],
        [_output(key, shape, kind) for key, shape in outputs.items()],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content = model.SerializeToString()
    folder = zoo / name
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in CLASSES))
    (folder / "model.onnx").write_bytes(content)
    suppression = "none" if kind == "selected-boxes" else "by-class"
    facts: dict[str, Any] = {
        "schema_version": 2,
        "name": name,
        "task": "object-detection",
        "labels": "colours",
        "classes": len(CLASSES),
        "architecture": "colours",
        "block": "none",
        "precision": "fp32",
        "input": {
            "height": size[0],
            "width": size[1],
            "fitting": "stretch",
            "mean": [0.0] * 3,
            "std": [255.0] * 3,
            "interpolation": "bilinear",
        } | card.pop("input", {}),
        "outputs": {key: list(shape) for key, shape in outputs.items()}
        | ({"class_offset": 1} if kind == "ssd-anchors" else {}),
        "detection": {"decoder": DECODERS[kind], "min_score": 0.5, "iou": 0.3, "suppression": suppression}
        | card.pop("detection", {}),
        "parameters": 9,
        "macs": 9 * size[0] * size[1],
        "file": {
            "name": "model.onnx",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "opset": 18,
            "initializer_elements": sum(value.size for value in constants.values()),
        },
        "source": {"weights": "written by hand", "licence": "CC0-1.0"},
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(facts | card))
    return folder


def _output(name: str, shape: tuple[int, ...], kind: str) -> Any:
    """Return the description of an output, whose first dimension is free."""
    element = TensorProto.INT64 if name == "selected" else TensorProto.FLOAT
    first = "M" if kind == "boxes-first" or name == "selected" else "N"
    return helper.make_tensor_value_info(name, element, [first, *shape])


def _network(
    kind: str, size: tuple[int, int]
) -> tuple[list[Any], dict[str, tuple[int, ...]], dict[str, NDArray[Any]]]:
    """Return nodes, shapes of the outputs without the first dimension, and constants."""
    rows, columns = size[0] // STRIDE, size[1] // STRIDE
    cells = rows * columns
    node = helper.make_node
    constants: dict[str, NDArray[Any]] = {
        "colour": (2 * np.eye(3, dtype=np.float32) - 1)[..., None, None],
        "zero": np.float32(0),
        "one": np.float32(1),
    }
    pooled = {"kernel_shape": [STRIDE] * 2, "strides": [STRIDE] * 2}
    nodes = [
        node("Conv", ["image", "colour"], ["colours"]),
        node("AveragePool", ["colours"], ["cells"], **pooled),
        node("Clip", ["cells", "zero", "one"], ["grid"]),
    ]
    if kind == "centre-points":
        constants |= {
            "pick": np.zeros((2, 3, 1, 1), np.float32),
            "log size": np.full(2, np.log(BOX / STRIDE), np.float32),
            "none": np.zeros(2, np.float32),
            "half": np.full(2, 0.5, np.float32),
        }
        nodes += [
            node("Identity", ["grid"], ["heatmap"]),
            node("Conv", ["grid", "pick", "log size"], ["size"]),
            node("Conv", ["grid", "pick", "none"], ["offset"]),
            node("Conv", ["grid", "pick", "half"], ["landmarks"]),
        ]
        maps = (rows, columns)
        return (
            nodes,
            {"heatmap": (3, *maps), "size": (2, *maps), "offset": (2, *maps), "landmarks": (2, *maps)},
            constants,
        )
    constants |= {
        "flat": np.array([0, 3, cells], np.int64),
        "ten": np.float32(10),
        "five": np.float32(5),
        "axes": np.array([1, 2, 3], np.int64),
        "boxes of cells": _boxes(kind, size)[None],
        "nothing": np.zeros((1, 4), np.float32),
    }
    nodes += [
        node("Reshape", ["grid", "flat"], ["per class"]),
        node("Transpose", ["per class"], ["per box"], perm=[0, 2, 1]),
        node("ReduceMax", ["image", "axes"], ["brightest"], keepdims=0),
        node("Mul", ["brightest", "zero"], ["no light"]),
        node("Reshape", ["no light", "column"], ["shift"]),
        node("Add", ["boxes of cells", "shift"], ["all boxes"]),
    ]
    constants["column"] = np.array([-1, 1, 1], np.int64)
    if kind == "ssd-anchors":
        constants["background"] = np.array([0, 0, 1, 0, 0, 0], np.int64)
        nodes += [
            node("Mul", ["per box", "ten"], ["steep"]),
            node("Sub", ["steep", "five"], ["logits"]),
            node("Pad", ["logits", "background", "ten"], ["scores"]),
            node("Identity", ["all boxes"], ["boxes"]),
        ]
        return nodes, {"boxes": (cells, 4), "scores": (cells, 4)}, constants
    if kind == "decoded-boxes":
        nodes += [node("Identity", ["all boxes"], ["boxes"]), node("Identity", ["per box"], ["scores"])]
        return nodes, {"boxes": (cells, 4), "scores": (cells, 3)}, constants
    if kind == "selected-boxes":
        constants |= {
            "most": np.array([1000], np.int64),
            "overlap": np.array([0.3], np.float32),
            "least": np.array([0.1], np.float32),
        }
        nodes += [
            node("Identity", ["all boxes"], ["boxes"]),
            node("Identity", ["per class"], ["scores"]),
            node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["selected"]),
        ]
        return nodes, {"boxes": (cells, 4), "scores": (3, cells), "selected": (3,)}, constants
    nodes += [
        node("ReduceMax", ["per box", "last"], ["best"], keepdims=0),
        node("ArgMax", ["per box"], ["index"], axis=2, keepdims=0),
        node("Cast", ["index"], ["ids"], to=TensorProto.FLOAT),
    ]
    constants["last"] = np.array([2], np.int64)
    if kind == "one-class-a-box":
        constants["all"] = np.array([cells], np.float32)
        nodes += [
            node("Identity", ["all boxes"], ["boxes"]),
            node("Identity", ["best"], ["scores"]),
            node("Identity", ["ids"], ["classes"]),
            node("Add", ["no light", "all"], ["count"]),
        ]
        return nodes, {"boxes": (cells, 4), "scores": (cells,), "classes": (cells,), "count": ()}, constants
    # boxes-first: only the boxes of the first image that are not black
    constants |= {"first": np.array([0], np.int64), "little": np.float32(0.05)}
    nodes += [
        node("Squeeze", ["best", "first"], ["best of it"]),
        node("Greater", ["best of it", "little"], ["is lit"]),
        node("Squeeze", ["ids", "first"], ["ids of it"]),
        node("Squeeze", ["all boxes", "first"], ["boxes of it"]),
        node("Compress", ["best of it", "is lit"], ["scores"], axis=0),
        node("Compress", ["ids of it", "is lit"], ["classes"], axis=0),
        node("Compress", ["boxes of it", "is lit"], ["boxes"], axis=0),
    ]
    return nodes, {"boxes": (4,), "scores": (), "classes": ()}, constants


def _boxes(kind: str, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the box of each cell, row by row, in the format of the kind of network."""
    boxes = []
    for row in range(size[0] // STRIDE):
        for column in range(size[1] // STRIDE):
            x, y = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
            left, top, right, bottom = x - BOX / 2, y - BOX / 2, x + BOX / 2, y + BOX / 2
            if kind == "ssd-anchors":
                boxes.append((0.0, 0.0, 0.0, 0.0))
            elif kind == "boxes-first":
                boxes.append((x, y, BOX, BOX))
            elif kind == "decoded-boxes":
                boxes.append((left, top, right, bottom))
            else:
                high, wide = size
                boxes.append((top / high, left / wide, bottom / high, right / wide))
    return np.array(boxes, np.float32)
