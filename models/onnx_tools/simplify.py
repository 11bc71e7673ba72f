"""Convert an ONNX file of any tool to the form that quantization needs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from models.onnx_tools.graph import constants_of
from models.onnx_tools.inspect import UnreadableModel, parse_model
from models.onnx_tools.session import folded
from models.onnx_tools.shapes import inline, outline

if TYPE_CHECKING:
    import onnx

LEAST_OPSET = 13
"""First opset in which quantized weights can have one scale for each channel."""
_RAISED_TO = 17
_LEAST_IR = 8
"""Least version of ONNX's file format (IR) of the result. From version 4 on, weights need not be inputs."""


def simplify(content: bytes) -> bytes:
    """Return an ONNX file that computes the same, in the form that `quantized` (quantize.py) needs.

    Batch norm is folded into weights, convolutions have biases, pooling over whole maps is one operator, each
    node has a name of its own, and the opset is at least LEAST_OPSET. Raises UnreadableModel, with the
    reason, if this is impossible.
    """
    import onnx
    from onnx import version_converter

    model = inline(parse_model(content))
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)
    if opset < LEAST_OPSET:
        try:
            model = version_converter.convert_version(model, _RAISED_TO)
        except Exception as error:  # RuntimeError and other errors of C++ code
            raise UnreadableModel(
                f"opset {opset} cannot be raised to {_RAISED_TO}: {str(error).splitlines()[0][:200]}"
            ) from None
    try:
        model = onnx.load_from_string(folded(model.SerializeToString()))
    except Exception as error:  # onnxruntime has a dozen types of its own
        raise UnreadableModel(f"ONNX Runtime cannot fold it: {str(error).splitlines()[0][:200]}") from None
    model.ir_version = max(model.ir_version, _LEAST_IR)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    _name_nodes(model.graph)
    _pool_whole_maps(model)
    _add_biases(model.graph)
    used = {node.domain for node in model.graph.node} | {""}
    domains = [each for each in model.opset_import if each.domain in used or each.domain == "ai.onnx"]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    return bytes(model.SerializeToString())


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name each unnamed node after its first output."""
    counts = Counter(node.name for node in graph.node)
    taken = set(counts)
    for node in graph.node:
        if node.name and counts[node.name] == 1:
            continue
        wanted = name = node.name or f"{node.op_type}:{next(iter(node.output), '')}"
        number = 1
        while name in taken:
            number += 1
            name = f"{wanted}#{number}"
        taken.add(name)
        node.name = name


def _pool_whole_maps(model: onnx.ModelProto) -> None:
    """Replace a mean over height and width by GlobalAveragePool, which has an integer kernel."""
    from onnx import numpy_helper

    values = outline(model).values
    constants = constants_of(model.graph)
    for node in model.graph.node:
        if node.op_type != "ReduceMean":
            continue
        attributes = {entry.name: entry for entry in node.attribute}
        axes = list(attributes["axes"].ints) if "axes" in attributes else []
        if len(node.input) > 1 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        keeps = attributes["keepdims"].i if "keepdims" in attributes else 1
        taken = values.get(node.input[0])
        if (
            keeps
            and taken is not None
            and len(taken.shape or ()) == 4
            and {axis % 4 for axis in axes} == {2, 3}
        ):
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
            del node.input[1:]


def _add_biases(graph: onnx.GraphProto) -> None:
    """Add a zero bias to convolutions without one, for bias correction."""
    import numpy as np
    from onnx import numpy_helper

    constants = constants_of(graph)
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in constants:
            name = f"{node.name}:bias"
            zeros = np.zeros(constants[node.input[1]].dims[0], np.float32)
            graph.initializer.append(numpy_helper.from_array(zeros, name))
            node.input.append(name)
