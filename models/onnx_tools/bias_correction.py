"""Bias correction: give the activations of a quantized network the means that they had in floating point."""

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
    """Correct the int32 biases of `quantized` in place, using activation means measured on `images`.

    Each image is an array as the network takes it. Rounding weights to 8 bits shifts the mean of each output
    channel of a convolution, and the shifts add up over the layers. This function corrects the convolutions
    in order from the input. It compares the channel's mean after the activation in `floating` with that in
    `quantized`, whose earlier layers are already corrected, and adds the difference to the channel's bias.
    This is the empirical form of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", https://arxiv.org/abs/1906.04721. It costs nothing at run time.
    """
    from onnx import numpy_helper

    convolutions = [node for node in floating.graph.node if node.op_type == "Conv"]
    consumers = _consumers(floating.graph)
    activated = {node.name: _activated_output(node, consumers) for node in convolutions}
    expected = channel_means(floating, list(activated.values()), images)
    weights = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for node in convolutions:
        bias = _quantized_bias(quantized.graph, node.name)
        if bias is None:
            continue
        values, scale, output = bias
        means = channel_means(quantized, [output], images)[output]
        steps = np.round((expected[activated[node.name]] - means) / numpy_helper.to_array(weights[scale]))
        corrected = numpy_helper.to_array(weights[values]) + steps.astype(np.int64)
        weights[values].CopyFrom(numpy_helper.from_array(corrected.astype(np.int32), values))


def channel_means(
    model: onnx.ModelProto, values: Sequence[str], images: Sequence[NDArray[Any]]
) -> dict[str, NDArray[np.float64]]:
    """Return each channel's mean over images and positions for feature maps by name, float64 (channels,)."""
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
    """Return the part of `model` that computes `values`, with these as its outputs."""
    import onnx

    part = onnx.ModelProto()
    part.CopyFrom(model)
    needed, nodes = set(values), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    outputs = [onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None) for value in values]
    for field, entries in (("node", nodes[::-1]), ("initializer", constants), ("output", outputs)):
        part.graph.ClearField(field)
        getattr(part.graph, field).extend(entries)
    return part


def _consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    consumers = defaultdict(list)
    for node in graph.node:
        for value in node.input:
            consumers[value].append(node)
    return consumers


def _activated_output(node: onnx.NodeProto, consumers: dict[str, list[onnx.NodeProto]]) -> str:
    """Return the output that quantization rounds: of the activation, or without one of the convolution."""
    after = consumers[node.output[0]]
    has_activation = len(after) == 1 and after[0].op_type in ("Clip", "Relu")
    return str(after[0].output[0] if has_activation else node.output[0])


def _quantized_bias(graph: onnx.GraphProto, name: str) -> tuple[str, str, str] | None:
    """Return the names of a convolution's int32 bias, of its scale and of the rounded output.

    None if the bias is float or missing; it is missing if it is all zero.
    """
    producers = {value: node for node in graph.node for value in node.output}
    consumers = _consumers(graph)
    convolution = next(node for node in graph.node if node.name == name)
    if len(convolution.input) < 3:
        return None
    dequantize = producers.get(convolution.input[2])
    rounding = [node for node in consumers[convolution.output[0]] if node.op_type == "QuantizeLinear"]
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or not rounding:
        return None
    output = consumers[rounding[0].output[0]][0].output[0]
    return dequantize.input[0], dequantize.input[1], output
