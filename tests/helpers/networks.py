"""Small real networks for the service's tests: valid, or with one fault."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.zoo.card import read_card
from models.zoo.labels import read_labels
from service.inference.loading import ServedModel
from service.inference.session import OnnxSession

SIDE = 16
LIGHT = "light"
"""Tensor of each channel's mean plus 0.5: negative for dark images, positive for light ones and noise."""
CONTRAST = "contrast"
"""Tensor of the input's norm: zero for an image of the grey value 127."""

Tail = Sequence[tuple[str, Sequence[str], dict[str, Any]]]
"""Operators after the linear layer: name, further inputs (or `LIGHT` as the only one), attributes."""


def save_network(
    zoo: Path,
    name: str,
    tail: Tail = (),
    *,
    classes: int = 10,
    batch: int | str = "N",
    weights: dict[str, NDArray[Any]] | None = None,
    bias: NDArray[np.float32] | None = None,
    declared: Sequence[int | str] | None = None,
    kind: int = TensorProto.FLOAT,
    embedding: bool = False,
    names: Sequence[str] | None = None,
    **card: Any,
) -> Path:
    """Write a network with card and labels to `zoo/name` and return that folder.

    Layers: average pooling, one linear layer, then `tail`, which runs on the scores of the linear layer, or
    on LIGHT if that is its input, and returns `logits` of type `kind` and shape `declared`. With `embedding`,
    `logits` are the scores and the tail returns `embedding`. `card` replaces fields of the card.
    """
    random = np.random.default_rng(0)
    tensors: dict[str, NDArray[Any]] = {
        "head.weight": random.normal(0, 1, (3, classes)).astype(np.float32),
        "head.bias": np.zeros(classes, np.float32) if bias is None else bias,
        "half": np.array(0.5, np.float32),
        **(weights or {}),
    }
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("Gemm", ["means", "head.weight", "head.bias"], ["scores"]),
        helper.make_node("Add", ["means", "half"], [LIGHT]),
        helper.make_node("ReduceL2", ["image"], [CONTRAST], keepdims=0),
    ]
    last = "scores"
    for number, (op, inputs, attributes) in enumerate(tail):
        node_inputs = list(inputs) if LIGHT in inputs else [last, *inputs]
        last = f"tail{number}"
        nodes.append(helper.make_node(op, node_inputs, [last], **attributes))
    nodes.append(helper.make_node("Identity", ["scores" if embedding else last], ["logits"]))
    outputs = {"logits": [classes]}
    values = [_value("logits", kind, [batch, classes] if declared is None else declared)]
    if embedding:
        nodes.append(helper.make_node("Identity", [last], ["embedding"]))
        outputs["embedding"] = [3]
        values.append(_value("embedding", TensorProto.FLOAT, [batch, 3]))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        values,
        [numpy_helper.from_array(value, key) for key, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    folder = zoo / name
    folder.mkdir(parents=True)
    names = names or [f"class {number}" for number in range(classes)]
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in names))
    facts = {
        "name": name,
        "labels": f"{name}-labels",
        "classes": classes,
        "architecture": "linear",
        "block": "none",
        "precision": "fp32",
        "input": {
            "height": SIDE,
            "width": SIDE,
            "resize": SIDE,
            "mean": [127.0] * 3,
            "std": [127.0] * 3,
            "interpolation": "bilinear",
        },
        "outputs": outputs,
        "parameters": 4 * classes,
        "macs": 3 * classes,
        "source": {"weights": "random", "licence": "CC0-1.0"},
    }
    (folder / "card.json").write_text(json.dumps(facts | card))
    put_file(folder, model)
    return folder


def put_file(folder: Path, model: onnx.ModelProto | bytes) -> None:
    """Write `model.onnx`, and its size and digest into the card."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    card = json.loads((folder / "card.json").read_text())
    card["file"] = {
        "name": "model.onnx",
        "bytes": max(1, len(content)),
        "sha256": hashlib.sha256(content).hexdigest(),
        "opset": 18,
        "initializer_elements": 44,
    }
    (folder / "card.json").write_text(json.dumps(card))


def end_in_scaler(folder: Path) -> None:
    """Let a model end in an operator of ai.onnx.ml, which ONNX Runtime has and OpenVINO lacks."""
    model = onnx.load(folder / "model.onnx")
    model.graph.node[-1].output[0] = "unscaled"
    scaler = helper.make_node(
        "Scaler", ["unscaled"], ["logits"], domain="ai.onnx.ml", offset=[0.0] * 10, scale=[1.0] * 10
    )
    model.graph.node.append(scaler)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    put_file(folder, model)


def served(folder: Path) -> ServedModel:
    """Load the model in `folder` without a registry or warm-up."""
    card = read_card(folder)
    content = (folder / card.file.name).read_bytes()
    return ServedModel(card, read_labels(card, folder), OnnxSession(content, card), typical_ns=0)


def _value(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    if kind == -1:
        return helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, shape)
    return helper.make_tensor_value_info(name, kind, shape)
