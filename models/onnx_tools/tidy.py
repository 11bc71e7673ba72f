"""Tidy the graph that torch's exporter writes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx


def tidy(model: onnx.ModelProto) -> None:
    """Tidy the graph of `model` in place. Its outputs stay the same.

    Means over whole maps become pooling operators, which are faster. Nodes are named after the modules of the
    network, and metadata are dropped.
    """
    _use_global_pooling(model.graph)
    _rename(model.graph)
    _drop_metadata(model)


def _use_global_pooling(graph: onnx.GraphProto) -> None:
    """Replace means over whole maps by GlobalAveragePool, which keeps the memory layout of convolutions.

    The exporter writes ReduceMean, and Reshape if the result is flattened; ONNX Runtime would reorder the
    whole feature map for ReduceMean.
    """
    import onnx

    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    consumers = {value: node for node in graph.node for value in node.input}
    nodes: list[onnx.NodeProto] = []
    flattened: set[str] = set()
    for node in graph.node:
        if node.op_type == "Reshape" and node.output[0] in flattened:
            continue
        if node.op_type != "ReduceMean" or not _is_spatial(node, constants):
            nodes.append(node)
            continue
        after = consumers.get(node.output[0])
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
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _is_spatial(mean: onnx.NodeProto, constants: dict[str, NDArray[np.generic]]) -> bool:
    """Return whether a mean is over exactly the height and width of a map (N, channels, height, width)."""
    axes = constants.get(mean.input[1]) if len(mean.input) > 1 else None
    return axes is not None and {int(axis) % 4 for axis in axes} == {2, 3}


def _keeps_dimensions(mean: onnx.NodeProto) -> bool:
    return next((bool(entry.i) for entry in mean.attribute if entry.name == "keepdims"), True)


_ROLES = {"Clip": "act", "Relu": "act", "GlobalAveragePool": "pool"}
"""Suffixes for the names of nodes without weights, by operator.

Such a node is named after the module that computes its input, followed by the suffix. For operators that are
not listed here, the suffix is the operator's name in lower case.
"""


def _rename(graph: onnx.GraphProto) -> None:
    """Name weights, nodes and values after their modules."""
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
            module = name = weight.removesuffix(".weight")
        else:
            # The block computed the last input of a concatenation.
            source = node.input[-1 if node.op_type == "Concat" else 0]
            module = modules.get(source, source)
            role = _ROLES.get(node.op_type, node.op_type.lower())
            name = f"{module}.{role}" if module else role
        node.name = next(numbered for numbered in _numbered(name) if numbered not in taken)
        taken.add(node.name)
        for position, output in enumerate(node.output):
            # Nodes after an output, e.g. the pooling of the features, belong to the network, not to a module.
            modules[output] = "" if output in outputs else module
            if output not in outputs:
                suffix = (
                    "ed" if node.op_type == "GlobalAveragePool" else f".out{position}" if position else ""
                )
                names[output] = node.name + suffix
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    del graph.value_info[:]


def _numbered(name: str) -> Iterator[str]:
    """Yield `name`, then `name` followed by .2, by .3 and so on."""
    yield name
    yield from (f"{name}.{number}" for number in itertools.count(2))


def _drop_metadata(model: onnx.ModelProto) -> None:
    """Remove the exporter's metadata about Python source lines, which is large and names local folders."""
    del model.metadata_props[:]
    del model.functions[:]
    model.graph.name = "network"
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
