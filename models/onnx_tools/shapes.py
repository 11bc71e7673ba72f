"""Infer the shapes of all tensors of an ONNX file. The numbers in its weights are not needed."""

from __future__ import annotations

import graphlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.graph import weight_of
from models.onnx_tools.inspect import MAX_NODES, TOO_MANY_NODES, UnreadableModel

if TYPE_CHECKING:
    import onnx

Layout = Literal["nchw", "nhwc"]
Shape = tuple[int | str | None, ...]
STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"})
CONTRIB = "com.microsoft"
"""Domain of the operators that ONNX Runtime adds to those of ONNX."""
_CHANNELS = (1, 3)
_KEPT_ELEMENTS = 256
"""Maximum number of values of a constant whose values are kept.

Shape inference needs the values of small constants, such as shapes and axes.
"""
_AS_STANDARD: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "BiasGelu": ("Identity", (0,)),
    "DequantizeLinear": ("DequantizeLinear", (0, 1, 2)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "FastGelu": ("Identity", (0,)),
    "FusedConv": ("Conv", (0, 1, 2)),
    "FusedGemm": ("Gemm", (0, 1, 2)),
    "FusedMatMul": ("MatMul", (0, 1)),
    "Gelu": ("Identity", (0,)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "QGemm": ("Gemm", (0, 3, 6)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearLeakyRelu": ("Identity", (0,)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearSigmoid": ("Identity", (0,)),
    "QLinearSoftmax": ("Identity", (0,)),
    "QLinearWhere": ("Where", (0, 1, 4)),
    "QuantizeLinear": ("QuantizeLinear", (0, 1, 2)),
    "QuickGelu": ("Identity", (0,)),
}
"""Standard operators that stand in for operators of ONNX Runtime in shape inference.

An operator of ONNX Runtime is mapped to a standard operator with outputs of the same shapes, and to the
indices of the inputs that the standard operator takes.
"""


_OF_SHAPES = frozenset(
    {
        "Add",
        "Cast",
        "Ceil",
        "Concat",
        "ConstantOfShape",
        "Div",
        "Equal",
        "Floor",
        "Gather",
        "Greater",
        "Identity",
        "Less",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Reshape",
        "Shape",
        "Slice",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
"""Operators that may compute a shape.

Of these, only ConstantOfShape can have a large output if its inputs are small.
"""
_ROUNDS = 100
_MOST_INFERRED = 1_000_000  # operators, over all rounds


@dataclass(frozen=True)
class Value:
    """Type of a tensor (a number of TensorProto.DataType), and its shape, which is None if unknown."""

    kind: int
    shape: Shape | None

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The shape if all of its sides are known. Otherwise it is None."""
        if self.shape is None:
            return None
        sizes = tuple(side for side in self.shape if isinstance(side, int))
        return sizes if len(sizes) == len(self.shape) else None


@dataclass(frozen=True)
class Outline:
    """A model with inlined functions and inferred shapes, without the values of larger constants.

    `values` has the type and the shape of each value, by name. `batch` is the number of images that the model
    takes at once. It is 1 if the model takes any number.
    """

    graph: onnx.GraphProto
    values: Mapping[str, Value]
    batch: int


def outline(model: onnx.ModelProto, size: tuple[int, ...] | None = None) -> Outline:
    """Return the outline of a model. The model itself is not changed.

    If an image input leaves height and width free, `size` states them as (height, width). If it leaves the
    channels free too, `size` states all three sides of an image, in the input's order. Raises UnreadableModel
    for recursive or too many functions, and for operators in a cycle.
    """
    import onnx

    without = inline(_without_values(model))
    graph = without.graph
    _sort(graph)
    batch = _fix_inputs(graph, size)
    del graph.value_info[:]
    for value in graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    for_inference = onnx.ModelProto()
    for_inference.CopyFrom(without)
    _replace_contrib(for_inference)
    values = _inferred(for_inference)
    for _ in range(min(_ROUNDS, _MOST_INFERRED // (len(graph.node) + 1))):
        # One computed shape may depend on another.
        if not _fold_shapes(for_inference, values):
            break
        values = _inferred(for_inference)
    return Outline(graph, values, batch)


def _inferred(model: onnx.ModelProto) -> dict[str, Value]:
    """Return the types and shapes that ONNX's own inference finds, by the value's name."""
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # InferenceError, ValidationError, and others for damaged messages
        inferred = model.graph
    values = {tensor.name: Value(tensor.data_type, tuple(tensor.dims)) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.HasField("tensor_type"):
            values[value.name] = Value(value.type.tensor_type.elem_type, shape_of(value.type.tensor_type))
    return values


def _fold_shapes(model: onnx.ModelProto, values: Mapping[str, Value]) -> bool:
    """Replace each node that reads only known shapes and small constants by a constant with its result.

    This lets ONNX's inference find shapes that it could not find before. Return whether any node was
    replaced.
    """
    from onnx import helper, numpy_helper

    nodes = model.graph.node
    if not any(node.op_type in ("Shape", "ConstantOfShape") for node in nodes):
        return False
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    known: dict[str, NDArray[np.generic]] = {}
    folded = False
    for node in nodes:
        if node.op_type == "Constant" and node.output:
            for entry in node.attribute:
                if entry.HasField("t"):
                    constants[node.output[0]] = entry.t
        if node.op_type not in _OF_SHAPES or len(node.output) != 1:
            continue
        if node.op_type == "Shape":
            sizes = values[node.input[0]].sizes if node.input and node.input[0] in values else None
            if sizes is None:
                continue
            ends = {entry.name: entry.i for entry in node.attribute}
            result: NDArray[np.generic] | None
            result = np.array(sizes[ends.get("start", 0) : ends.get("end", len(sizes))], np.int64)
        else:
            for name in node.input:
                tensor = constants.get(name)
                if name not in known and tensor is not None and _elements(tensor) <= _KEPT_ELEMENTS:
                    array = weight_of(name, tensor).values
                    if array is not None:
                        known[name] = array
            if not all(name in known for name in node.input if name):
                continue
            taken = [known[name] for name in node.input if name]
            sides = taken[0].reshape(-1).tolist() if node.op_type == "ConstantOfShape" and taken else ()
            together = sum if node.op_type == "Concat" else math.prod
            if math.prod(sides) > _KEPT_ELEMENTS or together(each.size for each in taken) > _KEPT_ELEMENTS**2:
                continue
            result = _computed(node, known, model.opset_import)
        if result is None or result.size > _KEPT_ELEMENTS:
            continue
        name = node.output[0]
        known[name], folded = result, True
        node.CopyFrom(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(result)))
    return folded


def _computed(
    node: onnx.NodeProto,
    known: Mapping[str, NDArray[np.generic]],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> NDArray[np.generic] | None:
    """Return the output of a node whose inputs are known, or None if the output cannot be computed."""
    from onnx import TensorProto, helper, numpy_helper, reference

    tensors = [numpy_helper.from_array(known[name], name) for name in dict.fromkeys(node.input) if name]
    output = helper.make_tensor_value_info(node.output[0], TensorProto.UNDEFINED, None)
    graph = helper.make_graph([node], "shapes", [], [output], tensors)
    model = helper.make_model(graph, opset_imports=opsets)
    try:
        with np.errstate(all="ignore"):
            result = next(iter(reference.ReferenceEvaluator(model).run(None, {})))
    except Exception:  # a damaged node can make NumPy raise anything
        return None
    return result if isinstance(result, np.ndarray) else None


def shape_of(kind: onnx.TypeProto.Tensor) -> Shape | None:
    """Return the shape that a tensor's type states, or None if it states no shape.

    In the shape, a text is a symbolic dimension, and None an unknown one.
    """
    if not kind.HasField("shape"):
        return None
    return tuple(
        side.dim_value if side.HasField("dim_value") and side.dim_value >= 0 else side.dim_param or None
        for side in kind.shape.dim
    )


def image_layout(shape: Sequence[int | str | None]) -> Layout | None:
    """Return the layout of an image input, judged by its shape (batch first).

    Return None if the shape fits both layouts or neither.
    """
    if len(shape) != 4:
        return None
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first == last:
        return None
    return "nchw" if first else "nhwc"


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its own functions inlined. If it has no functions, return `model` itself.

    Raises UnreadableModel for recursive functions, and for more than `MAX_NODES` operators.
    """
    import onnx.inliner

    _check_functions(model)
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception:  # the inliner raises RuntimeError and others
        raise UnreadableModel("it is a damaged ONNX file: its functions cannot be inlined") from None


def every_node(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the given nodes, and all nodes of their subgraphs, e.g. of the branches of If."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from every_node(graph.node)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _check_functions(model: onnx.ModelProto) -> None:
    """Raise UnreadableModel if inlining would not end or would produce too many nodes."""
    functions = {(each.domain, each.name, each.overload): each for each in model.functions}
    nodes: dict[tuple[str, str, str], int] = {}  # number of nodes of each function when inlined
    inlined = " with its functions inlined" if model.functions else ""

    def count(body: Sequence[onnx.NodeProto]) -> int:
        total = 0
        for node in every_node(body):
            total += nodes.get((node.domain, node.op_type, node.overload), 1)
            if total > MAX_NODES:
                raise UnreadableModel(f"{TOO_MANY_NODES}{inlined}")
        return total

    waiting = dict.fromkeys(functions)
    while waiting:
        ready = [
            key
            for key in waiting
            if not any(
                (node.domain, node.op_type, node.overload) in waiting
                for node in every_node(functions[key].node)
            )
        ]
        if not ready:
            raise UnreadableModel("it is a damaged ONNX file: a function in it calls itself")
        for key in ready:
            nodes[key] = count(functions[key].node)
            del waiting[key]
    count(model.graph.node)


def _without_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the model in which larger constants have only type and shape."""
    import onnx

    copy = onnx.ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    for field in ("input", "output", "node", "sparse_initializer"):
        getattr(copy.graph, field).extend(getattr(model.graph, field))
    copy.graph.name = "outline"
    for tensor in model.graph.initializer:
        if _elements(tensor) <= _KEPT_ELEMENTS:
            copy.graph.initializer.append(tensor)
        else:
            copy.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    bodies = [copy.graph.node, *(function.node for function in copy.functions)]
    for body in bodies:
        for node in every_node(body):
            for attribute in node.attribute:
                if attribute.HasField("t") and _elements(attribute.t) > _KEPT_ELEMENTS:
                    _empty(attribute.t)
            for graph in subgraphs(node):
                for tensor in graph.initializer:
                    if _elements(tensor) > _KEPT_ELEMENTS:
                        _empty(tensor)
    return copy


def _sort(graph: onnx.GraphProto) -> None:
    """Sort the operators so that each follows those that compute its inputs.

    Some converters write them in another order.
    """
    makers = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    before = {
        index: {makers[name] for inner in every_node([node]) for name in inner.input if name in makers}
        for index, node in enumerate(graph.node)
    }
    if all(maker < index for index, indices in before.items() for maker in indices):
        return
    nodes = list(graph.node)
    try:
        order = list(graphlib.TopologicalSorter(before).static_order())
    except graphlib.CycleError:
        raise UnreadableModel("it is a damaged ONNX file: an operator in it needs its own output") from None
    del graph.node[:]
    graph.node.extend(nodes[index] for index in order)


def _empty(tensor: onnx.TensorProto) -> None:
    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(field)


def _elements(tensor: onnx.TensorProto) -> int:
    """Return the number of values of a tensor, from its shape. Raises UnreadableModel for a negative side."""
    elements = 1
    for side in tensor.dims:
        if side < 0:
            raise UnreadableModel(
                f"it is a damaged ONNX file: tensor '{tensor.name[:100]}' has a side of {side}"
            )
        elements *= side
    return elements


def _fix_inputs(graph: onnx.GraphProto, size: tuple[int, ...] | None) -> int:
    """Set batch sizes that the model leaves free to 1, and free sides of images to those in `size`.

    Return the number of images that the model then takes at once.
    """
    weights = {tensor.name for tensor in graph.initializer}
    batch = 1
    for value in reversed(graph.input):
        if value.name in weights or not value.type.tensor_type.HasField("shape"):
            continue
        sides = value.type.tensor_type.shape.dim
        shape = shape_of(value.type.tensor_type) or ()
        if not shape:
            continue
        fixed = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 1
        sides[0].dim_value = fixed
        batch = fixed if len(shape) == 4 else 1
        if size is not None and len(shape) == 4:
            first = 1 if len(size) == 3 or image_layout(shape) == "nhwc" else 2
            for side, wanted, given in zip(sides[first:], size, shape[first:], strict=False):
                if not isinstance(given, int) or given == 0:
                    side.dim_value = wanted
    return batch


def _replace_contrib(model: onnx.ModelProto) -> None:
    """Replace operators of ONNX Runtime by standard operators whose outputs have the same shapes.

    ONNX's shape inference knows only standard operators.
    """
    for node in model.graph.node:
        if node.domain != CONTRIB:
            continue
        if node.op_type == "QLinearConcat":
            node.op_type, node.domain, inputs = "Concat", "", list(node.input[2::3])
        elif node.op_type in _AS_STANDARD:
            op, places = _AS_STANDARD[node.op_type]
            if node.op_type == "FusedMatMul" and any(
                a.i for a in node.attribute if a.name.startswith("trans")
            ):
                continue
            inputs = [node.input[place] for place in places if place < len(node.input)]
            node.op_type, node.domain = op, ""
        else:
            continue
        node.input[:] = inputs
