"""Find the last linear layer before the logits of an ONNX file, and the pooling before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.graph import constants_of, weight_of
from models.onnx_tools.shapes import Outline, Shape

if TYPE_CHECKING:
    import onnx

_ACTIVATIONS = frozenset({"LogSoftmax", "QLinearSigmoid", "QLinearSoftmax", "Sigmoid", "Softmax"})
_SAME = frozenset({"Dropout", "Identity"})
_RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_QUANTIZING = frozenset({"DequantizeLinear", "QuantizeLinear"})
_CONSTANT = _QUANTIZING | {"Cast", "Identity", "Reshape", "Transpose"}
"""Operators that may convert or reshape a constant before a layer uses it."""
_IN_INTEGERS = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3, "ConvInteger": 1, "MatMulInteger": 1}
"""Operators with integer weights, each with the index of the weight among its inputs."""
_LONGEST = 20  # maximum number of operators in a row that do not change values


class NoLinearLayer(Exception):
    """The file has no usable linear layer before the logits; the message says why."""


@dataclass(frozen=True)
class Head:
    """The last linear layer: `weight` float32 (classes, channels) and `bias` float32 (classes,).

    If the network has a background class, both arrays have a row for it.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True)
class LastLinear:
    """The last linear layer of a graph, with the values that it reads.

    `embedding` is the name of the layer's input. `kind` is the type of this input's values (a number of
    TensorProto.DataType), and `shape` its shape, batch first. If the input is quantized, `quantized` has the
    names of its scale and its zero point; otherwise it is empty. `features` is the name of the feature map
    (N, channels, height, width) whose mean over all positions is the embedding. If exact class maps are
    impossible, `head` or `features` is None, and `no_maps` says why.
    """

    embedding: str
    kind: int
    shape: Shape
    quantized: tuple[str, ...]
    head: Head | None
    features: str | None
    no_maps: str | None


def find_last_linear(model: onnx.ModelProto, outlined: Outline, logits: str) -> LastLinear:
    """Return the last linear layer before the output `logits`. Raises NoLinearLayer if there is none.

    The functions of `model` must be inlined. Raises UnreadableModel for damaged constants.
    """
    with np.errstate(all="ignore"):  # weights may be infinite or NaN, scales 0
        return _Search(model, outlined).run(logits)


class _Search:
    def __init__(self, model: onnx.ModelProto, outlined: Outline) -> None:
        graph = model.graph
        self._outlined = outlined
        self._producers: dict[str, onnx.NodeProto] = {
            output: node for node in graph.node for output in node.output
        }
        self._constants = constants_of(graph)
        self._inputs = {value.name for value in graph.input} - self._constants.keys()

    def run(self, logits: str) -> LastLinear:
        name, no_maps = logits, None
        bias: NDArray[np.float32] | None = None
        for _ in range(_LONGEST):
            node = self._producers.get(name)
            if node is None or not node.input:
                raise NoLinearLayer("no linear layer before the logits: they are an input or a constant")
            op = node.op_type
            if op in _ACTIVATIONS and bias is None:
                if op == "LogSoftmax":
                    no_maps = "the logits are logarithms of probabilities"
                name = node.input[0]
            elif op in _SAME | _RESHAPING | _QUANTIZING | {"Cast"} or self._keeps_order(node):
                if op == "QuantizeLinear":
                    no_maps = "the logits are quantized"
                name = node.input[0]
            elif op == "Add":
                constants = {each: self._values(each) for each in node.input}
                added = [value.reshape(-1) for value in constants.values() if value is not None]
                others = [each for each, value in constants.items() if value is None]
                if len(others) != 1 or len(added) != 1:
                    raise NoLinearLayer("the logits are the sum of two activations")
                name = others[0]
                bias = added[0] if bias is None else _sum(bias, added[0])
            else:
                return self._linear(node, logits, bias, no_maps)
        raise NoLinearLayer(f"no linear layer within {_LONGEST} operators before the logits")

    def _linear(
        self, node: onnx.NodeProto, logits: str, bias: NDArray[np.float32] | None, no_maps: str | None
    ) -> LastLinear:
        """Return a description of `node`, which must be a linear layer.

        `bias` has values that are added after it. If `no_maps` is given, it says why class maps are
        impossible. Raises NoLinearLayer if `node` is not a linear layer that takes one vector for each image.
        """
        op = node.op_type
        head: Head | None = None
        quantized: tuple[str, ...] = ()
        integers = self._dynamic(node)
        if integers is not None:
            classes, channels = self._integer_sides(integers)
            no_maps = "the last linear layer computes in integers"
            taken = self._producers[integers.input[0]].input[0]
        elif op in _IN_INTEGERS and not op.endswith("Integer"):
            classes, channels = self._integer_sides(node)
            no_maps = "the last linear layer computes in integers"
            taken, quantized = node.input[0], tuple(node.input[1:3])
        elif op in ("Gemm", "MatMul", "Conv"):
            head = self._head(node, bias)
            classes, channels = head.weight.shape
            taken = node.input[0]
        elif op == "Mul":
            raise NoLinearLayer("the logits are a product: last operator is Mul")
        else:
            raise NoLinearLayer(f"no linear layer before the logits: last operator is {op[:100]}")
        made = self._sizes(logits)
        if made is not None and math.prod(made[1:]) != classes:
            raise NoLinearLayer(
                f"the last linear layer has {classes} outputs, an image has {math.prod(made[1:])} logits"
            )
        if taken in self._inputs:
            raise NoLinearLayer("the last linear layer takes the input of the graph")
        kind, shape = self._taken(node, taken, channels)
        if head is not None and not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
            no_maps = "the weights of the last linear layer are not all finite"
        if no_maps is not None:
            head = None
        features = None
        if head is not None:
            features, no_maps = self._pooled(taken, channels)
        return LastLinear(taken, kind, shape, quantized, head, features, no_maps)

    def _taken(self, node: onnx.NodeProto, name: str, channels: int) -> tuple[int, Shape]:
        """Return the type and the shape of the value `name`, which is the input of the layer `node`.

        Raises NoLinearLayer if it is not one vector of `channels` values for each image.
        """
        value = self._outlined.values.get(name)
        sizes = self._sizes(name)
        if sizes is None:
            if node.op_type != "Gemm":
                raise NoLinearLayer("the shape of the input of the last linear layer is unknown")
            weight = self._constants.get(node.input[1])
            return (1 if weight is None else weight.data_type), (self._outlined.batch, channels)
        if len(sizes) < 2 or math.prod(sizes[1:]) != channels or sizes[0] != self._outlined.batch:
            raise NoLinearLayer(
                f"the last linear layer takes {'x'.join(map(str, sizes[1:]))} values for an image, "
                f"not a vector of {channels}"
            )
        assert value is not None
        return value.kind, sizes

    def _head(self, node: onnx.NodeProto, added: NDArray[np.float32] | None) -> Head:
        """Return the weight and the bias of a layer as floats.

        `added` has values that are added after the layer. They become part of the bias.
        """
        ints = {each.name: each.i for each in node.attribute}
        floats = {each.name: each.f for each in node.attribute}
        weight = self._values(node.input[1]) if len(node.input) > 1 else None
        if weight is None:
            known = len(node.input) > 1 and self._chain(node.input[1]) is not None
            words = "the weight of the last linear layer is not of a type that can be read"
            raise NoLinearLayer(words if known else "the logits are the product of two activations")
        has_bias = len(node.input) > 2 and node.input[2]
        bias = self._values(node.input[2]) if has_bias else None
        if has_bias and bias is None:
            raise NoLinearLayer("the bias of the last linear layer is not a constant")
        match node.op_type:
            case "Conv":
                if weight.ndim < 3 or math.prod(weight.shape[2:]) != 1 or ints.get("group", 1) != 1:
                    raise NoLinearLayer("the last linear layer is a convolution of several places or groups")
                weight = weight.reshape(weight.shape[:2])
            case "Gemm":
                if ints.get("transA", 0) or weight.ndim != 2:
                    raise NoLinearLayer("the last linear layer takes its input transposed")
                weight = (weight if ints.get("transB", 0) else weight.T) * np.float32(floats.get("alpha", 1))
                bias = None if bias is None else bias * np.float32(floats.get("beta", 1))
            case _:
                if weight.ndim != 2:
                    raise NoLinearLayer(f"the weight of the last matrix product has {weight.ndim} dimensions")
                weight = weight.T
        classes = len(weight)
        parts = [np.zeros(classes, np.float32)]
        for part in (bias, added):
            if part is not None:
                if part.size not in (1, classes):
                    raise NoLinearLayer(
                        f"{part.size} values are added to the {classes} of the last linear layer"
                    )
                parts.append(np.broadcast_to(part.reshape(-1), classes))
        return Head(np.ascontiguousarray(weight, np.float32), np.sum(parts, axis=0, dtype=np.float32))

    def _dynamic(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """If `node` scales the result of a layer whose input is dynamically quantized, return this layer.

        Otherwise return None.
        """
        if node.op_type != "Mul":
            return None
        for name in node.input:
            cast = self._producers.get(name)
            layer = self._producers.get(cast.input[0]) if cast is not None and cast.input else None
            if layer is not None and layer.op_type in ("ConvInteger", "MatMulInteger"):
                quantizing = self._producers.get(layer.input[0]) if layer.input else None
                if (
                    quantizing is not None
                    and quantizing.op_type == "DynamicQuantizeLinear"
                    and quantizing.input
                ):
                    return layer
        return None

    def _integer_sides(self, node: onnx.NodeProto) -> tuple[int, int]:
        """Return how many outputs and how many inputs a layer with integer weights has."""
        at = _IN_INTEGERS[node.op_type]
        weight = self._constants.get(node.input[at]) if at < len(node.input) else None
        if weight is None:
            raise NoLinearLayer("the logits are the product of two activations")
        sides = tuple(weight.dims)
        if node.op_type.endswith(("Conv", "ConvInteger")):
            if len(sides) < 3 or math.prod(sides[2:]) != 1:
                raise NoLinearLayer("the last linear layer is a convolution of several places")
            return sides[0], sides[1]
        if len(sides) != 2:
            raise NoLinearLayer(f"the weight of the last matrix product has {len(sides)} dimensions")
        if any(each.name == "transB" and each.i for each in node.attribute):
            return sides[0], sides[1]
        return sides[1], sides[0]

    def _pooled(self, name: str, channels: int) -> tuple[str | None, str | None]:
        """Return the name of the feature map whose mean over all positions is the vector `name`.

        If there is no such map, return None and the reason. Otherwise the reason is None.
        """
        for _ in range(_LONGEST):
            node = self._producers.get(name)
            if node is None or not node.input:
                break
            op, taken = node.op_type, node.input[0]
            value = self._outlined.values.get(taken)
            shape = None if value is None else value.shape
            if op in _SAME | _RESHAPING | {"Cast"} or self._keeps_order(node):
                name = taken
                continue
            if op in _QUANTIZING:
                return None, "values are quantized between pooling and the last linear layer"
            over = self._pooled_axes(node, shape)
            if over is None:
                return None, f"pooling does not lead straight to the last linear layer: {op[:100]} is between"
            if over == (1, 2):
                return None, "the last feature map has its channels last"
            if over != (2, 3) or shape is None or len(shape) != 4 or shape[1] != channels:
                return (
                    None,
                    "the last linear layer does not take the mean of a feature map over all its places",
                )
            if taken in self._inputs:
                return None, "the last feature map is the input of the graph"
            return taken, None
        return None, "no pooling leads to the last linear layer"

    def _pooled_axes(self, node: onnx.NodeProto, shape: Shape | None) -> tuple[int, ...] | None:
        """Return the axes over which `node` takes the mean, or None if it computes anything else."""
        if node.op_type == "GlobalAveragePool":
            return (2, 3)
        ints: dict[str, Sequence[int]] = {each.name: each.ints for each in node.attribute}
        if node.op_type == "ReduceMean":
            axes: Sequence[int] | None = ints.get("axes")
            if len(node.input) > 1 and node.input[1]:
                tensor = self._constants.get(node.input[1])
                values = None if tensor is None else weight_of("axes", tensor).values
                axes = None if values is None else [int(each) for each in values.reshape(-1)]
            rank = 4 if shape is None else len(shape)
            return None if not axes or not rank else tuple(sorted(axis % rank for axis in axes))
        if (
            node.op_type == "AveragePool"
            and shape is not None
            and tuple(ints.get("kernel_shape", ())) == shape[2:]
        ):
            made = self._sizes(node.output[0])
            if not any(ints.get("pads", ())) and made is not None and made[2:] == (1, 1):
                return (2, 3)
        return None

    def _keeps_order(self, node: onnx.NodeProto) -> bool:
        """Return whether `node` is a Transpose that leaves each image's values in their order.

        This is so if the batch stays first and at most one further side is longer than 1.
        """
        if node.op_type != "Transpose" or not node.input:
            return False
        sizes = self._sizes(node.input[0])
        order = [side for each in node.attribute if each.name == "perm" for side in each.ints]
        if sizes is None or len(order) != len(sizes) or order[:1] != [0]:
            return False
        return sum(side > 1 for side in sizes[1:]) <= 1

    def _sizes(self, name: str) -> tuple[int, ...] | None:
        value = self._outlined.values.get(name)
        return None if value is None else value.sizes

    def _values(self, name: str) -> NDArray[np.float32] | None:
        """Return the values of a float constant, which may be dequantized, cast or reshaped on the way.

        Return None if `name` is not such a constant.
        """
        chain = self._chain(name)
        if chain is None:
            return None
        source = chain[0].input[0] if chain else name
        values = weight_of(source, self._constants[source]).values
        for node in chain:
            others = [weight_of(each, self._constants[each]).values for each in node.input[1:] if each]
            known = [other for other in others if other is not None]
            if values is None or len(known) < len(others):
                return None
            try:
                values = _made(node, values, known)
            except (ValueError, TypeError, IndexError):  # a damaged node, which the runtime refuses
                return None
        return None if values is None or values.dtype.kind != "f" else values.astype(np.float32)

    def _chain(self, name: str) -> list[onnx.NodeProto] | None:
        """Return the nodes that compute a value from a constant, in order.

        Return [] if the value is a constant itself, and None if it does not come from a constant.
        """
        chain: list[onnx.NodeProto] = []
        while name not in self._constants:
            node = self._producers.get(name)
            if node is None or node.op_type not in _CONSTANT or len(chain) >= _LONGEST or not node.input:
                return None
            if any(each and each not in self._constants for each in node.input[1:]):
                return None
            chain.insert(0, node)
            name = node.input[0]
        return chain


def _sum(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    if first.size != second.size and 1 not in (first.size, second.size):
        raise NoLinearLayer(f"{first.size} and {second.size} values are added to the last linear layer")
    return first + second


def _made(
    node: onnx.NodeProto, values: NDArray[np.generic], others: Sequence[NDArray[np.generic]]
) -> NDArray[np.generic] | None:
    """Return what a node computes from a constant that has `values`.

    Return None if the operator is not handled here. `others` has the values of the node's other inputs.
    """
    ints = {each.name: each.i for each in node.attribute}
    match node.op_type:
        case "Identity":
            return values
        case "Cast":
            kinds = {1: np.float32, 10: np.float16, 11: np.float64}
            return values.astype(kinds[ints["to"]]) if ints.get("to") in kinds else None
        case "Transpose":
            order = [side for each in node.attribute if each.name == "perm" for side in each.ints]
            return values.transpose(order or None)
        case "Reshape" if others:
            given = [int(side) for side in others[0].reshape(-1)]
            return values.reshape([side or values.shape[at] for at, side in enumerate(given)])
        case "QuantizeLinear" | "DequantizeLinear" if others:
            scale, zero = (_along(values, part, ints.get("axis", 1)) for part in (others[0], others[-1]))
            zero = zero if len(others) > 1 else np.zeros_like(zero)
            if node.op_type == "DequantizeLinear":
                return (values.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)
            kind = np.dtype(others[1].dtype if len(others) > 1 else np.uint8)
            limits = np.iinfo(kind.name)
            steps = np.rint(values.astype(np.float32) / scale.astype(np.float32)) + zero.astype(np.float32)
            return steps.clip(limits.min, limits.max).astype(kind)
    return None


def _along(values: NDArray[np.generic], part: NDArray[np.generic], axis: int) -> NDArray[np.generic]:
    """Reshape `part` so that NumPy broadcasts it to `values`.

    `part` has scales or zero points: a single value, or one value for each position along `axis` of `values`.
    """
    if part.size == 1:
        return part.reshape(())
    if part.ndim != 1:
        raise ValueError("scales of blocks")
    return part.reshape([-1 if side == axis % values.ndim else 1 for side in range(values.ndim)])
