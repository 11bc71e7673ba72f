"""Bias correction: give the activations of a quantized network the means that they had in floating point."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.session import open_session

if TYPE_CHECKING:
    import onnx


def correct_biases(
    floating: onnx.ModelProto,
    quantized: onnx.ModelProto,
    images: Sequence[NDArray[Any]],
    expected: Mapping[str, NDArray[np.float64]] | None = None,
) -> None:
    """Correct the int32 biases of `quantized` in place, using activation means measured on `images`.

    Each image is an array as the network takes it. `expected` is the result of `activation_means` for
    `floating` and `images`. It is computed here unless it is given. A caller that corrects several networks
    can compute it once and give it.

    Rounding weights to 8 bits shifts the mean of each output channel of a convolution, and the shifts add up
    over the layers. This function corrects the convolutions in order from the input. For each channel, it
    compares the means after the activation in `floating` and in `quantized`, whose earlier layers are already
    corrected. It adds the difference to the channel's bias. This is the empirical form of Nagel et al.,
    "Data-Free Quantization Through Weight Equalization and Bias Correction",
    https://arxiv.org/abs/1906.04721. It costs nothing at run time.
    """
    from onnx import numpy_helper

    if expected is None:
        expected = activation_means(floating, images)
    weights = {tensor.name: tensor for tensor in quantized.graph.initializer}
    biases = {name: _quantized_bias(quantized.graph, name) for name in expected}
    found = {name: bias for name, bias in biases.items() if bias is not None}
    outputs = {name: output for name, (_, _, output) in found.items()}
    for name, means in _means_in_turn(quantized, outputs, images):
        values, scale, _ = found[name]
        steps = np.round((expected[name] - means) / numpy_helper.to_array(weights[scale]))
        corrected = numpy_helper.to_array(weights[values]) + steps.astype(np.int64)
        weights[values].CopyFrom(numpy_helper.from_array(corrected.astype(np.int32), values))


def activation_means(
    model: onnx.ModelProto, images: Sequence[NDArray[Any]]
) -> dict[str, NDArray[np.float64]]:
    """Return the mean of each channel after the activation of each convolution, by the convolution's name.

    The means are over `images` and all positions.
    """
    consumers = _consumers(model.graph)
    activated = {
        node.name: _activated_output(node, consumers) for node in model.graph.node if node.op_type == "Conv"
    }
    means = channel_means(model, list(activated.values()), images)
    return {name: means[value] for name, value in activated.items()}


def channel_means(
    model: onnx.ModelProto, values: Sequence[str], images: Sequence[NDArray[Any]]
) -> dict[str, NDArray[np.float64]]:
    """Return the mean of each channel of the feature maps `values`, float64 (channels,), by the map's name.

    The means are over `images` and all positions.
    """
    name = image_input(model.graph)
    nodes = _needed([_Node.of(node) for node in model.graph.node], values)
    session = open_session(_part(model, nodes, {name: images[0]}, values))
    means = {value: _Mean() for value in values}
    for image in images:
        maps = session.run(list(values), {name: image})
        for value, feature_map in zip(values, maps, strict=True):
            means[value].add(feature_map)
    return {value: mean.value for value, mean in means.items()}


def _means_in_turn(
    model: onnx.ModelProto, outputs: Mapping[str, str], images: Sequence[NDArray[Any]]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the name of each node in `outputs`, in order, with the channel means of its output.

    `outputs` has, for each node's name, the name of the value in `model` whose channels are averaged. After a
    node's means were yielded, the caller may change the node's weights until it asks for the next item. Once
    it has asked, these weights are final. When all weights on which a value depends are final, the value is
    computed once more and kept. A layer is therefore run at most twice, however many layers follow it.
    """
    rest = _needed([_Node.of(node) for node in model.graph.node], list(outputs.values()))
    to_come = dict(outputs)
    kept = [{image_input(model.graph): image} for image in images]
    for name, output in outputs.items():
        nodes = _needed(rest, [output])
        settled, changing = dict[_Node, None](), set[str]()
        for node in nodes:
            if node.name in to_come or not changing.isdisjoint(node.inputs):
                changing.update(node.outputs)
            elif not node.repeated:
                settled[node] = None
        rest = [node for node in rest if node not in settled]
        wanted = _wanted(rest, to_come.values())
        keep = [value for node in settled for value in node.outputs if value in wanted]
        read = {value for node in nodes for value in node.inputs}
        inputs = {value: array for value, array in kept[0].items() if value in read}
        session = open_session(_part(model, nodes, inputs, [output, *keep]))
        mean = _Mean()
        for number, values in enumerate(kept):
            feature_map, *maps = session.run([output, *keep], {value: values[value] for value in inputs})
            mean.add(feature_map)
            later = {value: array for value, array in values.items() if value in wanted}
            kept[number] = later | dict(zip(keep, maps, strict=True))
        yield name, mean.value
        del to_come[name]


class _Mean:
    """Accumulates feature maps (batch, channels, ...) and gives the mean of each channel over all of them."""

    def __init__(self) -> None:
        self._sum: NDArray[np.float64] | float = 0.0
        self._count = 0

    def add(self, feature_map: NDArray[Any]) -> None:
        self._sum = self._sum + feature_map.mean((0, *range(2, feature_map.ndim)), dtype=np.float64)
        self._count += 1

    @property
    def value(self) -> NDArray[np.float64]:
        return np.asarray(self._sum / self._count)


def image_input(graph: onnx.GraphProto) -> str:
    """Return the name of a graph's first input that is not a weight."""
    weights = {tensor.name for tensor in graph.initializer}
    return str(next(value.name for value in graph.input if value.name not in weights))


@dataclass(frozen=True, eq=False)
class _Node:
    """A node with its name and the names of the values that it reads and computes.

    If `repeated` is true, the node's result is not kept, and the node is run again when the result is needed.
    This is so for conversions from integers to floats. Only the integers are kept: they take a quarter of the
    memory, and integer operators read them.
    """

    proto: onnx.NodeProto
    name: str
    inputs: frozenset[str]
    outputs: tuple[str, ...]
    repeated: bool

    @classmethod
    def of(cls, node: onnx.NodeProto) -> _Node:
        repeated = node.op_type == "DequantizeLinear"
        return cls(node, node.name, frozenset(node.input), tuple(node.output), repeated)


def _needed(nodes: Sequence[_Node], values: Iterable[str]) -> list[_Node]:
    """Return those of `nodes` that are needed to compute `values`, in the order of `nodes`."""
    wanted, found = set(values), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return found[::-1]


def _wanted(nodes: Sequence[_Node], values: Iterable[str]) -> set[str]:
    """Return the names of the values to keep so that `nodes` can be run later to compute `values`."""
    wanted = set(values)
    for node in reversed(nodes):
        if not node.repeated or not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
    return wanted


def _part(
    model: onnx.ModelProto, nodes: Sequence[_Node], inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]
) -> bytes:
    """Return a model that consists of `nodes` and computes `outputs`.

    Its inputs have the names and the types of the arrays in `inputs`.
    """
    import onnx
    from onnx import helper

    read = {value for node in nodes for value in node.inputs}
    graph = helper.make_graph(
        [node.proto for node in nodes],
        model.graph.name,
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
            )
            for name, array in inputs.items()
        ],
        [onnx.ValueInfoProto(name=value) for value in outputs],
        [tensor for tensor in model.graph.initializer if tensor.name in read],
    )
    part = helper.make_model(graph, ir_version=model.ir_version, functions=model.functions)
    del part.opset_import[:]
    part.opset_import.extend(model.opset_import)
    return bytes(part.SerializeToString())


def _consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    consumers = defaultdict(list)
    for node in graph.node:
        for value in node.input:
            consumers[value].append(node)
    return consumers


def _activated_output(node: onnx.NodeProto, consumers: dict[str, list[onnx.NodeProto]]) -> str:
    """Return the name of the value that quantization rounds: the output of the activation after `node`.

    If no activation follows, it is the output of `node`.
    """
    after = consumers[node.output[0]]
    has_activation = len(after) == 1 and after[0].op_type in ("Clip", "Relu")
    return str(after[0].output[0] if has_activation else node.output[0])


def _quantized_bias(graph: onnx.GraphProto, name: str) -> tuple[str, str, str] | None:
    """Return the names of a convolution's int32 bias, of the bias's scale and of the rounded output.

    Return None if the bias is float, or if the output is not rounded. Return None, too, if the convolution
    has no bias in the file: a bias whose values are all zero is left out.
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
