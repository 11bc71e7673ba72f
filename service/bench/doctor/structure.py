"""Faults of the graph: batch norm that is left, QDQ pairs that did not fuse, channels off the alignment."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from models.onnx_tools.graph import Graph, Node
from service.bench.doctor.findings import Finding, some
from service.bench.doctor.model import ModelUnderTest

_CONVERTING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_COMPUTING = frozenset({"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Which input of a convolution is its weight, (M, C / groups, kH, kW)."""


def batch_norm_unfolded(model: ModelUnderTest) -> Iterator[Finding]:
    """Batch norm that ONNX Runtime could not fold into the convolution before it."""
    left = [node for node in model.optimized.nodes if node.op == "BatchNormalization"]
    if not left:
        return
    of = sum(node.op == "BatchNormalization" for node in model.graph.nodes)
    yield Finding(
        slug="batch-norm-unfolded",
        title="Unfolded batch norm",
        evidence=f"{len(left)} of {of} batch norms are still there after optimization: {some(_names(left))}; "
        "each reads and writes a whole feature map for two operations per value",
        remedy="put batch norm directly behind a convolution that nothing else reads, and export in "
        "evaluation mode, so that it is folded into the weights",
    )


def qdq_not_fused(model: ModelUnderTest) -> Iterator[Finding]:
    """QuantizeLinear and DequantizeLinear that did not become 8-bit operators."""
    graph = model.optimized
    stored = [node for node in graph.nodes if node.op in _COMPUTING and _has_8_bit_weight(node, graph)]
    islands = [
        node for stretch in _islands(graph) for node in stretch if not any(node is each for each in stored)
    ]
    if not stored and not islands:
        return
    parts = []
    if stored:
        parts.append(f"{len(stored)} operators compute in float on 8-bit weights: {some(_names(stored))}")
    if islands:
        kinds = ", ".join(sorted({node.op for node in islands}))
        parts.append(
            f"{len(islands)} operators ({kinds}) stand between DequantizeLinear and QuantizeLinear because "
            f"they have no 8-bit kernel or their pairs do not match: {some(_names(islands))}"
        )
    left = [op for op in model.operators if op.op in _CONVERTING]
    parts.append(f"converting takes {sum(op.share for op in left):.0%} of the time ({len(left)} operators)")
    yield Finding(
        slug="qdq-not-fused",
        title="QDQ pairs that did not fuse",
        evidence="; ".join(parts),
        remedy="quantize inputs, weights and outputs of an operator all three, use activations with 8-bit "
        "kernels (ReLU and Clip fuse, Sigmoid and LeakyReLU have one), or leave the operator in float",
    )


def channels_off_alignment(model: ModelUnderTest, isa: Collection[str]) -> Iterator[Finding]:
    """Channels that this CPU's vector registers do not divide into."""
    block = 16 if "avx512f" in isa else 8
    dense, grouped = [], []
    for node in model.optimized.nodes:
        shape = _kernel(node, model.optimized)
        if shape is None:
            continue
        made, taken, groups = shape[0], shape[1], node.ints.get("group", 1)
        label = f"{_label(node)} ({taken * groups} -> {made}{f', {groups} groups' if groups > 1 else ''})"
        if groups == 1 or taken == 1:
            # Up to three input channels are an image, which has kernels of its own.
            if made % 4 or (groups == 1 and taken > 3 and taken % 4):
                dense.append(label)
        elif taken % block or (made // groups) % block:
            grouped.append(label)
    if not dense and not grouped:
        return
    parts = []
    if dense:
        parts.append(f"{len(dense)} convolutions have channels that are no multiple of 4: {some(dense)}")
    if grouped:
        parts.append(
            f"{len(grouped)} grouped convolutions have channels per group that are no multiple of {block}: "
            f"{some(grouped)}"
        )
    yield Finding(
        slug="channels-off-alignment",
        title="Channels off the alignment",
        evidence="; ".join(parts) + ": they run in slower kernels, without the blocked layout",
        remedy="make channels a multiple of 8 (4 at least)"
        + (f", and of {block} in each group, or take depthwise convolutions" if grouped else ""),
    )


def _has_8_bit_weight(node: Node, graph: Graph) -> bool:
    """Whether a float operator's weight is stored in 8 bits and made float again at every run."""
    for name in node.inputs[1:2]:
        maker = graph.producers.get(name)
        if maker is not None and maker.op == "DequantizeLinear" and maker.inputs[0] in graph.weights:
            return True
    return False


def _islands(graph: Graph) -> list[list[Node]]:
    """Stretches of float operators between DequantizeLinear and QuantizeLinear.

    A stretch with float weights was left in float on purpose, and one that begins with the image or ends with
    an output has to be.
    """
    stretches: list[list[Node]] = []
    seen: set[str] = set()
    for start in graph.nodes:
        if start.op in _CONVERTING or start.outputs[0] in seen:
            continue
        stretch, ahead, makers, users = [], [start], set(), set()
        seen.add(start.outputs[0])
        while ahead:
            node = ahead.pop()
            stretch.append(node)
            before = [graph.producers[name] for name in node.inputs if name in graph.producers]
            behind = [user for name in node.outputs for user in graph.consumers.get(name, ())]
            makers |= {each.op for each in before}
            users |= {each.op for each in behind}
            for each in (*before, *behind):
                if each.op not in _CONVERTING and each.outputs[0] not in seen:
                    seen.add(each.outputs[0])
                    ahead.append(each)
        on_purpose = any(node.op in _COMPUTING and not _has_8_bit_weight(node, graph) for node in stretch)
        if "DequantizeLinear" in makers and "QuantizeLinear" in users and not on_purpose:
            stretches.append(stretch)
    return stretches


def _kernel(node: Node, graph: Graph) -> tuple[int, ...] | None:
    """The shape of a convolution's weight, through its DequantizeLinear; None for other operators."""
    at = _CONVOLUTIONS.get(node.op)
    if at is None or at >= len(node.inputs):
        return None
    name = node.inputs[at]
    maker = graph.producers.get(name)
    if name not in graph.weights and maker is not None and maker.op == "DequantizeLinear":
        name = maker.inputs[0]
    weight = graph.weights.get(name)
    return weight.shape if weight is not None and len(weight.shape) >= 3 else None


def _names(nodes: Collection[Node]) -> list[str]:
    return [_label(node) for node in nodes]


def _label(node: Node) -> str:
    """What to call a node: its name, else its first output's."""
    return node.name or node.outputs[0]
