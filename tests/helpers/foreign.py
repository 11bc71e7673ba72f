"""Small networks as other tools write them: a convolution, average pooling, a linear layer; variations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
FILTERS = 6


def network(
    *,
    classes: int = 5,
    layout: str = "nchw",
    kind: int = TensorProto.FLOAT,
    shape: Sequence[int | str | None] | None = None,
    channels: int = 3,
    batch: int | str = "N",
    activation: str | None = None,
    input_name: str = "x",
    output_name: str = "y",
    producer: str = "pytorch",
    metadata: Mapping[str, str] | None = None,
    weights_as_inputs: bool = False,
    opset: int = 18,
    ir_version: int = 9,
    more_outputs: Sequence[tuple[str, str]] = (),
    domain: str | None = None,
) -> onnx.ModelProto:
    """Make a classifier. `more_outputs`: names of further outputs, each with the tensor that it shows."""
    random = np.random.default_rng(7)
    real = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    tensors = {
        "conv.weight": random.normal(0, 0.3, (FILTERS, channels, 3, 3)).astype(real),
        "fc.weight": random.normal(0, 1, (classes, FILTERS)).astype(real),
        "fc.bias": random.normal(0, 1, classes).astype(real),
    }
    nodes, last = [], input_name
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [last], ["moved"], perm=[0, 3, 1, 2]))
        last = "moved"
    if kind == TensorProto.UINT8:
        nodes.append(helper.make_node("Cast", [last], ["cast"], to=TensorProto.FLOAT))
        last = "cast"
    nodes += [
        helper.make_node("Conv", [last, "conv.weight"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["scores"], transB=1),
    ]
    last = "scores"
    if domain is not None:
        nodes.append(helper.make_node("Strange", [last], ["stranger"], domain=domain))
        last = "stranger"
    if activation is not None:
        axis = {"axis": 1} if activation == "Softmax" else {}
        nodes.append(helper.make_node(activation, [last], ["activated"], **axis))
        last = "activated"
    nodes.append(helper.make_node("Identity", [last], [output_name]))
    work = TensorProto.FLOAT16 if kind == TensorProto.FLOAT16 else TensorProto.FLOAT
    outputs = [helper.make_tensor_value_info(output_name, work, [batch, classes])]
    for name, tensor in more_outputs:
        nodes.append(helper.make_node("Identity", [tensor], [name]))
        outputs.append(helper.make_tensor_value_info(name, work, None))
    if shape is None:
        image = [channels, SIDE, SIDE] if layout == "nchw" else [SIDE, SIDE, channels]
        shape = [batch, *image]
    inputs = [helper.make_tensor_value_info(input_name, kind, shape)]
    if weights_as_inputs:
        inputs += [helper.make_tensor_value_info(name, work, value.shape) for name, value in tensors.items()]
    graph = helper.make_graph(
        nodes, "foreign", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in tensors.items()]
    )
    opsets = [helper.make_opsetid("", opset)]
    if domain is not None:
        opsets.append(helper.make_opsetid(domain, 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name=producer)
    helper.set_model_props(model, dict(metadata or {}))
    return model


def save(path: Path, model: onnx.ModelProto | None = None, **options: Any) -> Path:
    """Write a network to `path`, by default one made with `options`; return `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((model or network(**options)).SerializeToString())
    return path


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    tensors: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """Make a model of nodes, for networks that are no classifiers."""
    values = [numpy_helper.from_array(value, name) for name, value in (tensors or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def looping(rounds: int = 2**62) -> onnx.ModelProto:
    """A network with a loop."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("v", "next", "y")]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Mul", ["v", "v"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            values[0],
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), values[1]],
    )
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Loop", ["rounds", "yes", "flat"], ["y"], body=body),
    ]
    return graph_of(
        nodes, [image], [values[2]], {"rounds": np.array(rounds, np.int64), "yes": np.array(True)}
    )
