"""Tidy the graph that torch's exporter writes: pooling as runtimes like it, modules' names, no origins."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx


def tidy(model: onnx.ModelProto) -> None:
    """Change `model` in place; what it computes stays the same."""
    _pool_globally(model.graph)
    _rename(model.graph)
    _forget_origins(model)


def _pool_globally(graph: onnx.GraphProto) -> None:
    """Give pooling over whole maps the operator that runtimes keep in the convolutions' own memory layout.

    The exporter writes a mean over height and width, and a reshape where the result is flattened; ONNX
    Runtime would first reorder the whole feature map for that mean.
    """
    import onnx

    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    behind = {value: node for node in graph.node for value in node.input}
    nodes: list[onnx.NodeProto] = []
    flattened: set[str] = set()
    for node in graph.node:
        if node.op_type == "Reshape" and node.output[0] in flattened:
            continue
        if node.op_type != "ReduceMean" or not _over_places(node, constants):
            nodes.append(node)
            continue
        after = behind.get(node.output[0])
        shape = None if after is None or after.op_type != "Reshape" else constants.get(after.input[1])
        if after is not None and shape is not None and len(shape) == 2:
            output = after.output[0]
            flattened.add(output)
        elif _keeps_dimensions(node):
            nodes.append(onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [node.output[0]]))
            continue
        else:
            output = node.output[0]
        pooled = f"{output}.pooled"
        nodes.append(onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled]))
        nodes.append(onnx.helper.make_node("Flatten", [pooled], [output]))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _over_places(mean: onnx.NodeProto, constants: dict[str, NDArray[np.generic]]) -> bool:
    """Whether a mean is over height and width of a map (N, channels, height, width), and nothing else."""
    axes = constants.get(mean.input[1]) if len(mean.input) > 1 else None
    return axes is not None and {int(axis) % 4 for axis in axes} == {2, 3}


def _keeps_dimensions(mean: onnx.NodeProto) -> bool:
    return next((bool(entry.i) for entry in mean.attribute if entry.name == "keepdims"), True)


_ROLES = {"Clip": "act", "Relu": "act", "GlobalAveragePool": "pool"}
"""What a node without weights is called behind the module that its input comes from; else by its operator."""


def _rename(graph: onnx.GraphProto) -> None:
    """Name weights after their modules, nodes and values after the modules that they belong to."""
    names = {"min_val_cast": "act.min", "max_val_cast": "act.max"}
    for tensor in graph.initializer:
        plain = names.get(tensor.name, tensor.name).removeprefix("network.")
        names[tensor.name] = plain.replace(".weight_bias", ".bias")
    outputs = {value.name for value in graph.output}
    modules: dict[str, str] = {}
    taken: set[str] = set()
    for node in graph.node:
        weight = next((names[name] for name in node.input if names.get(name, "").endswith(".weight")), None)
        if weight is not None:
            module = wanted = weight.removesuffix(".weight")
        else:
            # Of what is concatenated, the last is what a block has worked on.
            source = node.input[-1 if node.op_type == "Concat" else 0]
            module = modules.get(source, source)
            role = _ROLES.get(node.op_type, node.op_type.lower())
            wanted = f"{module}.{role}" if module else role
        node.name = next(name for name in _numbered(wanted) if name not in taken)
        taken.add(node.name)
        for position, output in enumerate(node.output):
            # What follows an output of the network is the network's own, e.g. the pooling of the features.
            modules[output] = "" if output in outputs else module
            if output not in outputs:
                ending = (
                    "ed" if node.op_type == "GlobalAveragePool" else f".out{position}" if position else ""
                )
                names[output] = node.name + ending
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    del graph.value_info[:]


def _numbered(name: str) -> Iterator[str]:
    """The name, then with 2, 3 and so on behind it."""
    yield name
    yield from (f"{name}.{number}" for number in itertools.count(2))


def _forget_origins(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes about Python source lines: it is large and names local folders."""
    del model.metadata_props[:]
    del model.functions[:]
    model.graph.name = "network"
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
