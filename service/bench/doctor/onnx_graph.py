"""Nodes and weights of an ONNX file, as far as the doctor looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.bench.doctor.wire import Malformed, fields, signed, varints

# Field numbers of onnx.proto, which may never change.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TENSOR = 1, 3, 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_DOUBLES = 1, 2, 4, 8, 9, 10

_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}
# onnx.TensorProto.DataType to NumPy; tensors of other types are kept without their values.


@dataclass(frozen=True)
class Weight:
    """A constant tensor.

    `values` has the shape `shape` and is a view into the file's bytes: writable when those are a bytearray.
    None where the type is of no interest or the values lie in another file.
    """

    name: str
    shape: tuple[int, ...]
    values: NDArray[np.generic] | None


@dataclass(frozen=True)
class Node:
    """An operator; `ints` are its attributes that are whole numbers, e.g. `group`."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ints: Mapping[str, int]


@dataclass(frozen=True)
class OnnxGraph:
    """The main graph of a model, nodes in the order of the file; weights by name, `Constant` nodes too."""

    nodes: tuple[Node, ...]
    weights: Mapping[str, Weight]

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that makes each tensor."""
        return {output: node for node in self.nodes for output in node.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that take each tensor."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}


def read_graph(content: bytes | bytearray) -> OnnxGraph:
    """The graph of an ONNX file's content. Raises Malformed for anything else."""
    nodes: list[Node] = []
    weights: dict[str, Weight] = {}
    graph = next((_message(v) for number, v in fields(memoryview(content)) if number == _MODEL_GRAPH), None)
    if graph is None:
        raise Malformed("there is no graph in it")
    for number, value in fields(graph):
        if number == _GRAPH_INITIALIZER:
            weight = _weight(_message(value))
            weights[weight.name] = weight
        elif number == _GRAPH_NODE:
            node, constant = _node(_message(value))
            nodes.append(node)
            if node.op == "Constant" and constant is not None:
                weights[node.outputs[0]] = constant
    return OnnxGraph(tuple(nodes), weights)


def _node(message: memoryview) -> tuple[Node, Weight | None]:
    texts: dict[int, list[str]] = {}
    ints: dict[str, int] = {}
    constant = None
    for number, value in fields(message):
        if number == _NODE_ATTRIBUTE:
            name, whole, tensor = _attribute(_message(value))
            if whole is not None:
                ints[name] = whole
            constant = tensor or constant
        elif number in (_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_DOMAIN):
            texts.setdefault(number, []).append(_text(value))
    node = Node(
        name=texts.get(_NODE_NAME, [""])[-1],
        op=texts.get(_NODE_OP, [""])[-1],
        domain=texts.get(_NODE_DOMAIN, [""])[-1],
        inputs=tuple(texts.get(_NODE_INPUT, [])),
        outputs=tuple(texts.get(_NODE_OUTPUT, [])),
        ints=ints,
    )
    return node, constant


def _attribute(message: memoryview) -> tuple[str, int | None, Weight | None]:
    name, whole, tensor = "", None, None
    for number, value in fields(message):
        if number == _ATTRIBUTE_NAME:
            name = _text(value)
        elif number == _ATTRIBUTE_INT and isinstance(value, int):
            whole = signed(value)
        elif number == _ATTRIBUTE_TENSOR:
            tensor = _weight(_message(value))
    return name, whole, tensor


def _weight(message: memoryview) -> Weight:
    name, kind = "", 0
    shape: list[int] = []
    data: memoryview | None = None
    for number, value in fields(message):
        if number == _TENSOR_DIMS:
            shape += [value] if isinstance(value, int) else varints(value)
        elif number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_NAME:
            name = _text(value)
        elif number in (_TENSOR_RAW, _TENSOR_FLOATS, _TENSOR_DOUBLES):
            data = _message(value)
    values: NDArray[np.generic] | None = None
    if data is not None and kind in _DTYPES:
        try:
            values = np.frombuffer(data, _DTYPES[kind]).reshape(shape)
        except ValueError:
            raise Malformed(f"tensor '{name[:100]}' has another number of values than its shape") from None
    return Weight(name, tuple(shape), values)


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise Malformed("a number stands where a message should")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode("utf-8", "replace")
