"""Recomputes what a card states from the files beside it, and lists what is not so."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from models.zoo.card import Card, File, read_card
from models.zoo.labels import read_labels

CLASSIFIER_TOLERANCE = 1e-3


def untrue_facts(folder: Path) -> list[str]:
    """What `folder/card.json` states and its files refute, in words; empty where the card is true.

    Parents are looked for beside `folder`.
    """
    return list(_untrue(folder, read_card(folder)))


def _untrue(folder: Path, card: Card) -> Iterator[str]:
    if card.name != folder.name:
        yield f"name {card.name}, folder {folder.name}"
    path = folder / card.file.name
    yield from _untrue_file(path, card.file)
    graph = _graph_facts(*_version(path))
    if graph.opset != card.file.opset:
        yield f"opset {card.file.opset}, found {graph.opset}"
    if graph.elements != card.file.initializer_elements:
        yield f"initializer_elements {card.file.initializer_elements}, found {graph.elements}"
    if graph.macs != card.macs:
        yield f"macs {card.macs}, found {graph.macs}"
    if graph.quantized != (card.precision == "int8"):
        has = "" if graph.quantized else "no "
        yield f"precision {card.precision}, but the file has {has}quantized layers"
    try:
        read_labels(card, folder)
    except ValueError as error:
        yield str(error)
    shape = (2, card.input.channels, card.input.height, card.input.width)
    outputs = _run(*_version(path), shape)
    for name in sorted(card.output_shapes.keys() ^ outputs.keys()):
        yield f"output {name} is only in the {'card' if name in card.output_shapes else 'file'}"
    for name in card.output_shapes.keys() & outputs.keys():
        if outputs[name].shape != (2, *card.output_shapes[name]):
            yield f"output {name} {card.output_shapes[name]}, found {outputs[name].shape[1:]}"
        if outputs[name].dtype != np.float32 or not np.isfinite(outputs[name]).all():
            yield f"output {name} is not finite float32"
    if card.classifier is not None:
        yield from _untrue_classifier(folder, card, outputs)
    yield from _untrue_parent(folder, card)


def _untrue_file(path: Path, stated: File) -> Iterator[str]:
    content = path.read_bytes()
    if len(content) != stated.bytes:
        yield f"{stated.name} bytes {stated.bytes}, found {len(content)}"
    if hashlib.sha256(content).hexdigest() != stated.sha256:
        yield f"{stated.name} sha256 differs"


@dataclass(frozen=True)
class _GraphFacts:
    opset: int
    elements: int
    macs: int
    quantized: bool


def _version(path: Path) -> tuple[Path, int]:
    """The file and when it was written: what is computed from them is computed once for all cards."""
    return path.resolve(), path.stat().st_mtime_ns


@cache
def _graph_facts(path: Path, _written_ns: int) -> _GraphFacts:
    model = onnx.load(path)
    return _GraphFacts(
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        elements=sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer),
        macs=macs(model),
        quantized=any(node.op_type == "DequantizeLinear" for node in model.graph.node),
    )


@cache
def _run(path: Path, _written_ns: int, shape: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    """The outputs of a run on noise of this shape."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(0, 0.5, shape).astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image}), strict=True))


def _untrue_classifier(folder: Path, card: Card, outputs: dict[str, NDArray[np.float32]]) -> Iterator[str]:
    assert card.classifier is not None
    path = folder.parent / card.classifier.model / card.classifier.file.name
    yield from _untrue_file(path, card.classifier.file)
    with np.load(path, allow_pickle=False) as arrays:
        weight, bias = arrays["weight"], arrays["bias"]
    expected = ((card.classes, *card.outputs["embedding"]), (card.classes,))
    if (weight.shape, bias.shape) != expected or {weight.dtype, bias.dtype} != {np.dtype(np.float32)}:
        yield f"classifier of shapes {weight.shape}, {bias.shape}, expected {expected} in float32"
        return
    difference = float(np.abs(outputs["embedding"] @ weight.T + bias - outputs["logits"]).max())
    if not difference <= CLASSIFIER_TOLERANCE:
        yield f"classifier: logits differ by {difference:.1e}"


def _untrue_parent(folder: Path, card: Card) -> Iterator[str]:
    if card.derived_from is None:
        return
    try:
        parent = read_card(folder.parent / card.derived_from)
    except FileNotFoundError:
        yield f"derived_from {card.derived_from}, which is not there"
        return
    # An int8 variant is the same network; a pruned or distilled one has less of it, or other weights.
    same = ("labels", "classes", "input")
    if card.precision == "int8":
        same += ("architecture", "parameters", "macs", "source")
    for field in same:
        if getattr(card, field) != getattr(parent, field):
            yield f"{field} differs from {parent.name}'s"
    inherited = card.accuracy is not None and card.accuracy.kind == "inherited"
    if inherited and (parent.accuracy is None or card.accuracy.value != parent.accuracy.value):
        yield f"accuracy {card.accuracy.value} is not {parent.name}'s"


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of one image in the file's convolutions and linear layers."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    # Where weights are integers, they reach the convolution through a node that makes them float.
    constants |= {
        node.output[0]: constants[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    shapes = {
        value.name: [dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            # A weight is (out, in / groups, height, width): what one output pixel of one channel needs.
            total += math.prod(shapes[node.output[0]]) * math.prod(constants[node.input[1]][1:])
        elif node.op_type == "ConvTranspose":
            # A weight is (in, out / groups, height, width): what one input pixel of one channel contributes.
            total += math.prod(shapes[node.input[0]]) * math.prod(constants[node.input[1]][1:])
        elif node.op_type == "Gemm":
            total += math.prod(constants[node.input[1]])
    return total
