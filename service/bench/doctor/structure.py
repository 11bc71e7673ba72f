"""Checks of the graph: unfolded batch norm, QDQ pairs that did not fuse, unaligned channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from models.onnx_tools.graph import Graph, Node
from service.bench.doctor.findings import Finding, some
from service.bench.doctor.model import ModelUnderTest

_CONVERTING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_COMPUTING = frozenset({"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Which input of a convolution is its weight, by type of operator. The weight is (M, C / groups, kH, kW)."""


def batch_norm_unfolded(model: ModelUnderTest) -> Iterator[Finding]:
    """Find batch norms that ONNX Runtime could not fold into the convolution before them."""
    unfolded = [node for node in model.optimized.nodes if node.op == "BatchNormalization"]
    if not unfolded:
        return
    total = sum(node.op == "BatchNormalization" for node in model.graph.nodes)
    yield Finding(
        slug="batch-norm-unfolded",
        title="Unfolded batch norm",
        evidence=f"{len(unfolded)} of {total} batch norms remain after optimization: "
        f"{some(_names(unfolded))}; each reads and writes a whole feature map for two operations per value",
        remedy="place batch norm directly after a convolution without other consumers, and export in "
        "evaluation mode, so that it is folded into the weights",
    )


def qdq_not_fused(model: ModelUnderTest) -> Iterator[Finding]:
    """Find QuantizeLinear and DequantizeLinear pairs that did not fuse into 8-bit operators."""
    graph = model.optimized
    stored = [node for node in graph.nodes if node.op in _COMPUTING and _has_8_bit_weight(node, graph)]
    islands = [
        node for island in _islands(graph) for node in island if not any(node is other for other in stored)
    ]
    if not stored and not islands:
        return
    parts = []
    if stored:
        parts.append(f"{len(stored)} operators compute in float on 8-bit weights: {some(_names(stored))}")
    if islands:
        kinds = ", ".join(sorted({node.op for node in islands}))
        parts.append(
            f"{len(islands)} operators ({kinds}) run in float between DequantizeLinear and QuantizeLinear, "
            f"because they have no 8-bit kernel or their pairs do not match: {some(_names(islands))}"
        )
    converting = [op for op in model.operators if op.op in _CONVERTING]
    share = sum(op.share for op in converting)
    parts.append(f"conversions take {share:.0%} of the time ({len(converting)} operators)")
    yield Finding(
        slug="qdq-not-fused",
        title="QDQ pairs that did not fuse",
        evidence="; ".join(parts),
        remedy="quantize inputs, weights and outputs of an operator, use activations with 8-bit kernels "
        "(ReLU and Clip fuse, Sigmoid and LeakyReLU have one), or leave the operator in float",
    )


def channels_off_alignment(model: ModelUnderTest, isa: Collection[str]) -> Iterator[Finding]:
    """Find convolutions with numbers of channels for which ONNX Runtime has only slower kernels.

    Channels should be a multiple of 4. In a grouped convolution that is not depthwise, the channels of each
    group should be a multiple of this CPU's vector width: 16 with AVX-512, and 8 without.
    """
    block = 16 if "avx512f" in isa else 8
    dense, grouped = [], []
    for node in model.optimized.nodes:
        shape = _kernel(node, model.optimized)
        if shape is None:
            continue
        outputs, inputs, groups = shape[0], shape[1], node.ints.get("group", 1)
        suffix = f", {groups} groups" if groups > 1 else ""
        label = f"{_label(node)} ({inputs * groups} -> {outputs}{suffix})"
        if groups == 1 or inputs == 1:
            # A convolution with up to three input channels reads an image, and has special kernels.
            if outputs % 4 or (groups == 1 and inputs > 3 and inputs % 4):
                dense.append(label)
        elif inputs % block or (outputs // groups) % block:
            grouped.append(label)
    if not dense and not grouped:
        return
    parts = []
    if dense:
        parts.append(f"{len(dense)} convolutions have channels that are not a multiple of 4: {some(dense)}")
    if grouped:
        parts.append(
            f"{len(grouped)} grouped convolutions have channels per group that are not a multiple of "
            f"{block}: {some(grouped)}"
        )
    yield Finding(
        slug="channels-off-alignment",
        title="Channels off the alignment",
        evidence="; ".join(parts) + ": they run in slower kernels, without the blocked layout",
        remedy="make channels a multiple of 8 (4 at least)"
        + (f", and of {block} in each group, or use depthwise convolutions" if grouped else ""),
    )


def _has_8_bit_weight(node: Node, graph: Graph) -> bool:
    """Return whether a float operator's weight is stored in 8 bits and dequantized at every run."""
    for name in node.inputs[1:2]:
        producer = graph.producers.get(name)
        if producer is not None and producer.op == "DequantizeLinear" and producer.inputs[0] in graph.weights:
            return True
    return False


def _islands(graph: Graph) -> list[list[Node]]:
    """Return connected groups of float operators between DequantizeLinear and QuantizeLinear.

    Groups with float weights are left out, because they were left in float on purpose. Groups that begin with
    the image or end with an output are left out, because they are always float.
    """
    islands: list[list[Node]] = []
    seen: set[str] = set()
    for start in graph.nodes:
        if start.op in _CONVERTING or start.outputs[0] in seen:
            continue
        island, stack, producer_ops, consumer_ops = [], [start], set(), set()
        seen.add(start.outputs[0])
        while stack:
            node = stack.pop()
            island.append(node)
            producers = [graph.producers[name] for name in node.inputs if name in graph.producers]
            consumers = [consumer for name in node.outputs for consumer in graph.consumers.get(name, ())]
            producer_ops |= {producer.op for producer in producers}
            consumer_ops |= {consumer.op for consumer in consumers}
            for neighbour in (*producers, *consumers):
                if neighbour.op not in _CONVERTING and neighbour.outputs[0] not in seen:
                    seen.add(neighbour.outputs[0])
                    stack.append(neighbour)
        on_purpose = any(node.op in _COMPUTING and not _has_8_bit_weight(node, graph) for node in island)
        if "DequantizeLinear" in producer_ops and "QuantizeLinear" in consumer_ops and not on_purpose:
            islands.append(island)
    return islands


def _kernel(node: Node, graph: Graph) -> tuple[int, ...] | None:
    """Return the shape of a convolution's weight, even if the weight passes through DequantizeLinear.

    Return None for other operators, and if the weight is not stored in the graph.
    """
    index = _CONVOLUTIONS.get(node.op)
    if index is None or index >= len(node.inputs):
        return None
    name = node.inputs[index]
    producer = graph.producers.get(name)
    if name not in graph.weights and producer is not None and producer.op == "DequantizeLinear":
        name = producer.inputs[0]
    weight = graph.weights.get(name)
    return weight.shape if weight is not None and len(weight.shape) >= 3 else None


def _names(nodes: Collection[Node]) -> list[str]:
    return [_label(node) for node in nodes]


def _label(node: Node) -> str:
    """Return the name of a node. If the node has no name, return the name of its first output."""
    return node.name or node.outputs[0]
