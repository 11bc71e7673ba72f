"""Split a network into its blocks, wherever a single value connects what is before and what is after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from models.onnx_tools.graph import constants_of
from models.onnx_tools.shapes import every_node, subgraphs

if TYPE_CHECKING:
    import onnx

LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_WHOLE_MAP = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"})


def segments(graph: onnx.GraphProto, output: str) -> list[list[onnx.NodeProto]]:
    """Return the operators from the image to `output` in segments, which are connected by a single value.

    A residual block is one segment, and so is an operator outside such blocks. Operators whose inputs are all
    constants are left out.
    """
    nodes = _on_the_way(graph, output)
    uses = Counter(name for node in nodes for name in _taken(node))
    constants = constants_of(graph)
    live = {value.name: uses[value.name] for value in graph.input if value.name not in constants}
    found: list[list[onnx.NodeProto]] = []
    segment: list[onnx.NodeProto] = []
    activations = set(live)
    for node in nodes:
        taken = [name for name in _taken(node) if name in activations]
        if not taken:
            continue
        segment.append(node)
        for name in taken:
            live[name] -= 1
            if live[name] == 0:
                del live[name]
        activations.update(node.output)
        live |= {name: uses[name] for name in node.output if uses[name]}
        if len(live) <= 1:
            found.append(segment)
            segment = []
    return [*found, segment] if segment else found


def classifier_nodes(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """Return the last pooling over whole maps and all nodes after it.

    The pooling in a gate (e.g. of squeeze-and-excitation) does not count, because some values bypass it. If
    the graph has no pooling over whole maps outside of gates, return the last linear layer and all nodes
    after it. If this layer is a convolution, or if there is no linear layer, return no nodes.
    """
    parts = segments(graph, output)
    pools = [at for at, part in enumerate(parts) if len(part) == 1 and part[0].op_type in _WHOLE_MAP]
    if pools:
        start = pools[-1]
    else:
        linear = [at for at, part in enumerate(parts) if any(node.op_type in LINEAR for node in part)]
        last = parts[linear[-1]] if linear else []
        if not last or any(node.op_type == "Conv" for node in last):
            return []
        start = linear[-1]
    return [node for part in parts[start:] for node in part]


def _on_the_way(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """Return the nodes on which `output` depends, in the order of the file."""
    needed, kept = {output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_taken(node))
            kept.append(node)
    return kept[::-1]


def _taken(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the values that a node reads, including those that its subgraphs read."""
    yield from node.input
    for graph in subgraphs(node):
        for inner in every_node(graph.node):
            yield from inner.input
