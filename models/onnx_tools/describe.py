"""Describe an ONNX file: inputs, outputs, size, cost and precision, without running it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from models.onnx_tools.inspect import parse_model
from models.onnx_tools.macs import WEIGHT_INPUT, multiply_accumulates
from models.onnx_tools.shapes import (
    CONTRIB,
    STANDARD_DOMAINS,
    Outline,
    Shape,
    every_node,
    image_layout,
    outline,
    shape_of,
    subgraphs,
)

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphFacts", "Precision", "TensorInfo", "describe", "image_layout"]

Precision = Literal["fp32", "fp16", "int8"]

_PARAMETERS: Mapping[str, tuple[int, ...]] = {
    **{op: (at, at + 1) for op, at in WEIGHT_INPUT.items()},
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "ConvInteger": (1,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "QGemm": (3, 6),
    "MatMulIntegerToFloat": (1, 6),
    "DynamicQuantizeMatMul": (1, 4),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3, 4),
    "BiasGelu": (1,),
    "PRelu": (1,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}
"""For each operator, the indices of the inputs whose values are trained."""
_ALSO_PARAMETERS = frozenset({"Add", "Mul", "Concat"})
"""Operators whose constants count as trained if they have several values, e.g. biases or scales."""
_PASSED = frozenset(
    {
        "Cast",
        "DequantizeLinear",
        "Expand",
        "Flatten",
        "Identity",
        "QuantizeLinear",
        "Reshape",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that may convert or reshape a constant before a layer uses it as its weight."""
_NOT_COUNTED = frozenset(
    {
        "Attention",
        "DeformConv",
        "Einsum",
        "GRU",
        "GroupQueryAttention",
        "LSTM",
        "MatMulNBits",
        "MultiHeadAttention",
        "PackedAttention",
        "QAttention",
        "RNN",
    }
)
"""Operators that have multiply-accumulates, but whose number `multiply_accumulates` cannot tell."""
_IN_INTEGERS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a graph.

    `dtype` is NumPy's name of the type, e.g. float32. For types that NumPy lacks, it is ONNX's name, e.g.
    `string` or `bfloat16`. For values that are not tensors, it is `sequence`, `map`, `optional` or `sparse`.
    In `shape`, a text is a symbolic size, and None an unknown size. `()` means that the file states no shape.
    """

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True)
class GraphFacts:
    """Facts of an ONNX file.

    `inputs` excludes initializers that are listed as inputs. `custom_domains` are the domains of operators
    that neither ONNX nor a function in the file defines; `com.microsoft` is included, although ONNX Runtime
    knows it. `initializer_elements` counts the main graph only.

    `parameters` counts the constant inputs of convolutions, matrix products, normalizations, additions and
    products, including dequantized integers; it excludes batch norm's running mean and variance, and single
    numbers that are added or multiplied. If an exporter has folded batch norm into a convolution, the file
    has one value per channel instead of the batch norm's two, or none if the convolution had a bias before.

    `macs` is for one image; None if shapes cannot be inferred or an operator is unknown. `precision` is int8
    if a layer computes with 8-bit weights and inputs, else fp16 if most weights are float16, else fp32.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int
    ir_version: int
    producer: str
    custom_domains: tuple[str, ...]
    initializer_elements: int
    parameters: int
    macs: int | None
    precision: Precision
    metadata: Mapping[str, str]


def describe(content: bytes, size: tuple[int, ...] | None = None) -> GraphFacts:
    """Return the facts of an ONNX file.

    If the input leaves height and width free, `size` states them as (height, width). If the input leaves the
    channels free too, `size` states all three sides of an image, in the input's order. Free sides of the
    outputs, except the first side, are inferred for this size. Raises UnreadableModel for content that is not
    an ONNX file.
    """
    model = parse_model(content)
    outlined = outline(model, size)
    weights = _Weights(outlined.graph)
    initializers = {tensor.name for tensor in model.graph.initializer}
    parameters = dict(weights.parameters())
    return GraphFacts(
        inputs=tuple(info(value) for value in model.graph.input if value.name not in initializers),
        outputs=tuple(_filled(info(value), outlined) for value in model.graph.output),
        opset=max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1),
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        custom_domains=_custom_domains(model),
        initializer_elements=sum(math.prod(tensor.dims) for tensor in model.graph.initializer),
        parameters=sum(parameters.values()),
        macs=_macs(outlined),
        precision=weights.precision(),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def info(value: onnx.ValueInfoProto) -> TensorInfo:
    """Return the name, the type and the shape of an input or output of a graph."""
    kind = (value.type.WhichOneof("value") or "undefined").removesuffix("_type").removesuffix("_tensor")
    if kind != "tensor":
        return TensorInfo(value.name, kind, ())
    tensor = value.type.tensor_type
    return TensorInfo(value.name, dtype_name(tensor.elem_type), shape_of(tensor) or ())


def dtype_name(kind: int) -> str:
    """Return NumPy's name of a tensor type. For a type that NumPy lacks, return ONNX's name in lower case."""
    from onnx import TensorProto

    try:
        name: str = TensorProto.DataType.Name(kind).lower()
    except ValueError:
        return "undefined"
    return {"float": "float32", "double": "float64"}.get(name, name)


def _filled(output: TensorInfo, outlined: Outline) -> TensorInfo:
    """Return the output with inferred sizes for its free sides, except for the batch."""
    value = outlined.values.get(output.name)
    if value is None or not value.shape or output.dtype in ("sequence", "map", "optional", "sparse"):
        return output
    if not output.shape:
        return replace(output, shape=(None, *value.shape[1:]))
    if len(output.shape) != len(value.shape):
        return output
    sides = zip(output.shape[1:], value.shape[1:], strict=True)
    shape = (
        output.shape[0],
        *(given if isinstance(given, int) else found or given for given, found in sides),
    )
    return replace(output, shape=shape)


def _custom_domains(model: onnx.ModelProto) -> tuple[str, ...]:
    functions = {(function.domain, function.name) for function in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    return tuple(
        sorted(
            {
                node.domain
                for body in bodies
                for node in every_node(body)
                if node.domain not in STANDARD_DOMAINS and (node.domain, node.op_type) not in functions
            }
        )
    )


def _macs(outlined: Outline) -> int | None:
    """Return the number of multiply-accumulates for one image, or None if it is unknown."""
    total = 0
    for node in outlined.graph.node:
        counted = node.op_type in WEIGHT_INPUT
        unknown = node.op_type in _NOT_COUNTED or node.domain not in (*STANDARD_DOMAINS, CONTRIB)
        inside = (inner for graph in subgraphs(node) for inner in every_node(graph.node))
        if unknown or any(inner.op_type in WEIGHT_INPUT.keys() | _NOT_COUNTED for inner in inside):
            return None
        if not counted:
            continue
        inputs = [_sizes(outlined, name) for name in node.input if name]
        output = _sizes(outlined, node.output[0]) if node.output else None
        known = [sizes for sizes in inputs if sizes is not None]
        if output is None or len(known) < len(inputs):
            return None
        total += multiply_accumulates(node.op_type, known, output)
    return total // outlined.batch


def _sizes(outlined: Outline, name: str) -> tuple[int, ...] | None:
    value = outlined.values.get(name)
    return None if value is None else value.sizes


class _Constant(NamedTuple):
    """The type of a constant (a number of TensorProto.DataType), and the number of its values."""

    kind: int
    elements: int


class _Weights:
    """The constants of a graph and of its subgraphs, and the layers that read them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = list(every_node(graph.node))
        inner = [each for node in self._nodes for each in subgraphs(node)]
        self._constants: dict[str, _Constant] = {}
        for each in (graph, *inner):
            for tensor in each.initializer:
                self._constants[tensor.name] = _Constant(tensor.data_type, math.prod(tensor.dims))
            for sparse in each.sparse_initializer:
                self._constants[sparse.values.name] = _sparse(sparse)
        for node in self._nodes:
            constant = next(filter(None, map(_constant, node.attribute)), None)
            if node.op_type == "Constant" and node.output and constant is not None:
                self._constants[node.output[0]] = constant
        self._producers = {output: node for node in self._nodes for output in node.output}
        self._sources: dict[str, tuple[str | None, bool]] = {}
        self._made: dict[str, dict[str, bool]] = {}

    def parameters(self) -> Iterator[tuple[str, int]]:
        """Yield the name and the number of values of each trained constant.

        A constant that several layers read is yielded once for each of them.
        """
        from onnx import TensorProto

        floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
        for node in self._nodes:
            loose = node.op_type in _ALSO_PARAMETERS
            if loose and any(self._made_by(name, "DynamicQuantizeLinear") for name in node.input):
                continue  # scales of an integer product
            places = range(len(node.input)) if loose else _PARAMETERS.get(node.op_type, ())
            for name in (node.input[place] for place in places if place < len(node.input)):
                source, dequantized = self._source(name)
                if source is None:
                    continue
                kind, elements = self._constants[source]
                if not loose or (elements > 1 and (dequantized or kind in floats)):
                    yield source, elements

    def precision(self) -> Precision:
        """Return `int8` if any layer computes in int8.

        Otherwise return the precision of most weights, `fp16` or `fp32`.
        """
        from onnx import TensorProto

        bytes_ = (TensorProto.INT8, TensorProto.UINT8)
        kinds: dict[int, int] = {}
        for node in self._nodes:
            at = WEIGHT_INPUT.get(node.op_type)
            if at is None or at >= len(node.input):
                continue
            source, dequantized = self._source(node.input[at])
            if source is None:
                continue
            kind, elements = self._constants[source]
            if node.op_type in _IN_INTEGERS and (kind in bytes_ or dequantized):
                return "int8"
            if dequantized and self._made_by(node.input[0], "DequantizeLinear"):
                return "int8"
            kinds[kind] = kinds.get(kind, 0) + elements
        return "fp16" if kinds.get(TensorProto.FLOAT16, 0) > kinds.get(TensorProto.FLOAT, 0) else "fp32"

    def _source(self, name: str) -> tuple[str | None, bool]:
        """Return the name of the constant from which a value comes, and whether it is dequantized on the way.

        Only operators that convert or reshape may lie between the constant and the value. If there is any
        other operator between them, or no constant at all, the name is None.
        """
        passed: list[tuple[str, bool]] = []  # values on the way, and whether their operator dequantizes
        seen: set[str] = set()  # a damaged graph may have a cycle
        while name not in self._sources:
            if name in self._constants:
                self._sources[name] = (name, False)
                break
            node = self._producers.get(name)
            if name in seen or node is None or node.op_type not in _PASSED or not node.input:
                self._sources[name] = (None, False)
                break
            seen.add(name)
            passed.append((name, node.op_type == "DequantizeLinear"))
            name = node.input[0]
        found = self._sources[name]
        for each, dequantizes in reversed(passed):
            found = self._sources[each] = (found[0], found[1] or dequantizes)
        return found

    def _made_by(self, name: str, op: str) -> bool:
        """Return whether a value comes from an operator `op`, possibly with another shape or type."""
        made = self._made.setdefault(op, {})
        passed: list[str] = []
        while name not in made:
            node = self._producers.get(name)
            if node is None or node.op_type == op:
                made[name] = node is not None
            else:
                made[name] = False  # ends a cycle; set again below
                if node.op_type in _PASSED and node.input:
                    passed.append(name)
                    name = node.input[0]
        made.update(dict.fromkeys(passed, made[name]))
        return made[name]


def _constant(attribute: onnx.AttributeProto) -> _Constant | None:
    """Return the type and the number of values that an attribute of a `Constant` operator holds.

    Return None for an attribute with text.
    """
    from onnx import TensorProto

    match attribute.name:
        case "value":
            return _Constant(attribute.t.data_type, math.prod(attribute.t.dims))
        case "sparse_value":
            return _sparse(attribute.sparse_tensor)
        case "value_float" | "value_floats":
            return _Constant(TensorProto.FLOAT, max(1, len(attribute.floats)))
        case "value_int" | "value_ints":
            return _Constant(TensorProto.INT64, max(1, len(attribute.ints)))
    return None


def _sparse(tensor: onnx.SparseTensorProto) -> _Constant:
    return _Constant(tensor.values.data_type, math.prod(tensor.dims))
