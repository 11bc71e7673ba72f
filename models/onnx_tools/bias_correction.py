"""Move the biases of a quantized network so that its activations have the means that they had in float."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.session import open_session

if TYPE_CHECKING:
    import onnx


def correct_biases(
    floating: onnx.ModelProto, quantized: onnx.ModelProto, images: Sequence[NDArray[Any]]
) -> None:
    """Change the int32 biases of `quantized`, in place, by `images`, each as the network takes it.

    Rounding weights to 8 bits shifts each output channel of a convolution by a little, always the same way,
    and the shifts add up from layer to layer. Layer by layer from the input, each channel's bias takes over
    the difference between the two networks' means of that channel, measured behind the activation with all
    earlier layers corrected already: Nagel et al., "Data-Free Quantization Through Weight Equalization and
    Bias Correction", https://arxiv.org/abs/1906.04721, in its empirical form. It costs nothing at run time.
    """
    from onnx import numpy_helper

    convolutions = [node for node in floating.graph.node if node.op_type == "Conv"]
    followers = _followers(floating.graph)
    behind = {node.name: _behind_activation(node, followers) for node in convolutions}
    expected = channel_means(floating, list(behind.values()), images)
    weights = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for node in convolutions:
        bias = _quantized_bias(quantized.graph, node.name)
        if bias is None:
            continue
        stored, scale, output = bias
        found = channel_means(quantized, [output], images)[output]
        steps = np.round((expected[behind[node.name]] - found) / numpy_helper.to_array(weights[scale]))
        corrected = numpy_helper.to_array(weights[stored]) + steps.astype(np.int64)
        weights[stored].CopyFrom(numpy_helper.from_array(corrected.astype(np.int32), stored))


def channel_means(
    model: onnx.ModelProto, values: Sequence[str], images: Sequence[NDArray[Any]]
) -> dict[str, NDArray[np.float64]]:
    """Return each channel's mean over images and places for the named feature maps, float64 (channels,)."""
    session = open_session(_up_to(model, values).SerializeToString())
    name = image_input(model.graph)
    sums: dict[str, NDArray[np.float64]] = {}
    for image in images:
        maps = session.run(list(values), {name: image})
        for value, feature_map in zip(values, maps, strict=True):
            places = (0, *range(2, feature_map.ndim))
            sums[value] = sums.get(value, 0.0) + feature_map.mean(places, dtype=np.float64)
    return {value: total / len(images) for value, total in sums.items()}


def image_input(graph: onnx.GraphProto) -> str:
    """Return the name of a graph's input that is no weight."""
    weights = {tensor.name for tensor in graph.initializer}
    return str(next(value.name for value in graph.input if value.name not in weights))


def _up_to(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """The part of `model` that computes `values`, its outputs now; the rest would run for nothing."""
    import onnx

    part = onnx.ModelProto()
    part.CopyFrom(model)
    needed, kept = set(values), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    outputs = [onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None) for value in values]
    for field, entries in (("node", kept[::-1]), ("initializer", constants), ("output", outputs)):
        part.graph.ClearField(field)
        getattr(part.graph, field).extend(entries)
    return part


def _followers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    followers = defaultdict(list)
    for node in graph.node:
        for value in node.input:
            followers[value].append(node)
    return followers


def _behind_activation(node: onnx.NodeProto, followers: dict[str, list[onnx.NodeProto]]) -> str:
    """The value that quantization rounds: the convolution's own, or its activation's where it has one."""
    after = followers[node.output[0]]
    rounded_behind = len(after) == 1 and after[0].op_type in ("Clip", "Relu")
    return str(after[0].output[0] if rounded_behind else node.output[0])


def _quantized_bias(graph: onnx.GraphProto, name: str) -> tuple[str, str, str] | None:
    """Names of a convolution's int32 bias, of its scale and of the rounded output.

    None where the bias is float, or where there is none, as when all of it is zero.
    """
    sources = {value: node for node in graph.node for value in node.output}
    followers = _followers(graph)
    convolution = next(node for node in graph.node if node.name == name)
    if len(convolution.input) < 3:
        return None
    dequantize = sources.get(convolution.input[2])
    rounding = [node for node in followers[convolution.output[0]] if node.op_type == "QuantizeLinear"]
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or not rounding:
        return None
    output = followers[rounding[0].output[0]][0].output[0]
    return dequantize.input[0], dequantize.input[1], output
