"""Small ONNX graphs as other tools write them, and runs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

CHANNELS, CLASSES, SIDE = 6, 5, 8
Step = tuple[str, list[str], dict[str, Any]]
"""Operator, its inputs behind the first, attributes."""


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


WEIGHTS: dict[str, NDArray[Any]] = {
    "k": random(CHANNELS, 3, 3, 3),
    "kb": random(CHANNELS, seed=1),
    "w": random(CLASSES, CHANNELS, seed=2),
    "wt": random(CHANNELS, CLASSES, seed=2),
    "w11": random(CLASSES, CHANNELS, 1, 1, seed=2),
    "b": random(CLASSES, seed=3),
    "b11": random(1, CLASSES, 1, 1, seed=3),
    "flat": np.array([0, -1], np.int64),
    "places": np.array([2, 3], np.int64),
    "middle": np.array([1, 2], np.int64),
}
POOL: Step = ("GlobalAveragePool", [], {})
FLATTEN: Step = ("Flatten", [], {})
GEMM: Step = ("Gemm", ["w", "b"], {"transB": 1})


def chain(*steps: Step, **options: Any) -> bytes:
    """A convolution, a ReLU, and `steps` up to the output `logits`; see `model`."""
    nodes = [
        helper.make_node("Conv", ["image", "k", "kb"], ["conv"], pads=[1] * 4),
        helper.make_node("Relu", ["conv"], ["map"]),
    ]
    last = "map"
    for number, (op, inputs, attributes) in enumerate(steps):
        made = "logits" if number == len(steps) - 1 else f"v{number}"
        nodes.append(helper.make_node(op, [last, *inputs], [made], **attributes))
        last = made
    return model(nodes, **{"outputs": [("logits", (None, CLASSES))]} | options)


def model(
    nodes: Sequence[NodeProto],
    *,
    weights: Mapping[str, NDArray[Any]] | None = None,
    image: Sequence[int | str | None] = ("N", 3, SIDE, SIDE),
    outputs: Sequence[tuple[str, Sequence[int | str | None] | None]] = (("logits", None),),
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
    ir: int = 8,
    as_inputs: bool = False,
    domains: Sequence[str] = (),
    **more: Any,
) -> bytes:
    """An ONNX file of the input `image`; `as_inputs` lists the weights as inputs too."""
    known = WEIGHTS | dict(weights or {})
    used = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(values, name) for name, values in known.items() if name in used]
    inputs = [helper.make_tensor_value_info("image", kind, image)]
    if as_inputs:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    values = [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs]
    graph = helper.make_graph(list(nodes), "g", inputs, values, tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(each, 1) for each in domains)]
    made = helper.make_model(graph, ir_version=ir, opset_imports=opsets, **more)
    return bytes(made.SerializeToString())


def run(content: bytes, names: Sequence[str], *, images: int = 1) -> list[NDArray[Any]]:
    """Run a file on noise, one thread, and return the outputs `names`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    node = session.get_inputs()[0]
    sides = [side if isinstance(side, int) else SIDE for side in node.shape[1:]]
    count = node.shape[0] if isinstance(node.shape[0], int) else images
    kind = np.float16 if "float16" in node.type else np.float32
    image = random(count, *sides, seed=7).astype(kind)
    return list(session.run(list(names), {node.name: image}))


def parsed(content: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(content)
