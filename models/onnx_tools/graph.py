"""Read the nodes and weights of an ONNX file, change its weights, and build a small network to measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.inspect import UnreadableModel, is_external, parse

if TYPE_CHECKING:
    import onnx

CHAIN_CHANNELS, CHAIN_SIZE, CHAIN_LAYERS = 256, 28, 4


@dataclass(frozen=True)
class Weight:
    """A constant tensor. If its values are in another file or of a type not read here, `values` is None."""

    name: str
    shape: tuple[int, ...]
    values: NDArray[np.generic] | None


@dataclass(frozen=True)
class Node:
    """An operator of a graph. `ints` has the values of its integer attributes, e.g. `group`, by name."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ints: Mapping[str, int]


@dataclass(frozen=True)
class Graph:
    """The main graph of an ONNX file.

    `nodes` are in the order of the file. `weights` has the constant tensors by name, including those of
    `Constant` nodes.
    """

    nodes: tuple[Node, ...]
    weights: Mapping[str, Weight]

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that computes a tensor, by the tensor's name."""
        return {output: node for node in self.nodes for output in node.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read a tensor, by the tensor's name."""
        consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                consumers.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in consumers.items()}


def read_graph(content: bytes) -> Graph:
    """Return the main graph of an ONNX file. Raises UnreadableModel if `content` is not an ONNX file."""
    model = parse(content)
    if not model.HasField("graph"):
        raise UnreadableModel("not an ONNX file: no graph")
    try:
        weights = {name: weight_of(name, tensor) for name, tensor in constants_of(model.graph).items()}
        return Graph(tuple(_node(node) for node in model.graph.node), weights)
    except UnicodeDecodeError:
        raise UnreadableModel("damaged ONNX file: a name is not UTF-8") from None


def change_weights(content: bytes, change: Callable[[str, NDArray[np.generic]], None]) -> bytes:
    """Return the ONNX file `content` after `change(name, values)` has changed its weights in place.

    `change` is called for each weight of the main graph whose values `read_graph` returns. Raises
    UnreadableModel if `content` is not an ONNX file.
    """
    from onnx import numpy_helper

    model = parse(content)
    for name, tensor in constants_of(model.graph).items():
        values = weight_of(name, tensor).values
        if values is not None:
            values = values.copy()
            change(name, values)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return bytes(model.SerializeToString())


def convolution_chain(arithmetic: Literal["fp32", "int8"]) -> bytes:
    """Return an ONNX model of four 1 x 1 convolutions of 256 channels on 28 x 28 maps.

    Its input and output are float. A layer has 51 M multiply-accumulates; its weights and activations fit the
    second-level cache.
    """
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    shape = (CHAIN_CHANNELS, CHAIN_CHANNELS, 1, 1)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, NDArray[np.generic]] = {}

    def add(op: str, inputs: list[str], output: str) -> None:
        nodes.append(helper.make_node(op, inputs, [output], name=f"{output}.{op}"))

    if arithmetic == "int8":
        weights |= {"scale": np.array(0.05, "f4"), "zero": np.array(128, "u1")}
        weights |= {"w_scale": np.array(0.01, "f4"), "w_zero": np.array(0, "i1")}
        add("QuantizeLinear", ["x0", "scale", "zero"], "q0")
        for layer in range(CHAIN_LAYERS):
            weights[f"w{layer}"] = random.integers(-127, 128, shape).astype("i1")
            weight = [f"w{layer}", "w_scale", "w_zero"]
            add("QLinearConv", [f"q{layer}", "scale", "zero", *weight, "scale", "zero"], f"q{layer + 1}")
        add("DequantizeLinear", [f"q{CHAIN_LAYERS}", "scale", "zero"], "y")
    else:
        for layer in range(CHAIN_LAYERS):
            weights[f"w{layer}"] = random.normal(0, 1 / np.sqrt(CHAIN_CHANNELS), shape).astype("f4")
            add("Conv", [f"x{layer}", f"w{layer}"], f"x{layer + 1}")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHAIN_CHANNELS, CHAIN_SIZE, CHAIN_SIZE])
        for name in ("x0", nodes[-1].output[0])
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], tensors)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the constant tensors of a graph, by the names by which its nodes refer to them."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            constants.update((node.output[0], entry.t) for entry in node.attribute if entry.HasField("t"))
    return constants


def _node(node: onnx.NodeProto) -> Node:
    ints = {entry.name: entry.i for entry in node.attribute if entry.HasField("i")}
    return Node(node.name, node.op_type, node.domain, tuple(node.input), tuple(node.output), ints)


def weight_of(name: str, tensor: onnx.TensorProto) -> Weight:
    """Return a constant tensor as a Weight with its values.

    Raises UnreadableModel if the number of values does not fit the tensor's shape.
    """
    from onnx import TensorProto, numpy_helper

    shape = tuple(tensor.dims)
    floats = (TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE)
    integers = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64)
    if tensor.data_type not in (*floats, *integers) or is_external(tensor):
        return Weight(name, shape, None)
    try:
        return Weight(name, shape, numpy_helper.to_array(tensor))
    except (ValueError, TypeError):
        raise UnreadableModel(
            f"damaged ONNX file: tensor '{name[:100]}' has another number of values than its shape"
        ) from None
