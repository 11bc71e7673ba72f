"""Detectors as ONNX files: find NonMaxSuppression, and add values or parts of values as outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.onnx_tools.inspect import UnreadableModel, parse_model
from models.onnx_tools.prepare import serialized, without_weights_as_inputs

if TYPE_CHECKING:
    import onnx

_SAME = frozenset({"Identity", "Cast"})


@dataclass(frozen=True)
class Suppression:
    """A NonMaxSuppression operator of the main graph.

    `boxes` and `scores` are the names of its inputs, and `selected` is the name of its output, which has the
    indices of the selected boxes. If `centre` is true, a box is given by its centre, width and height.
    Otherwise it is given by two opposite corners.
    """

    boxes: str
    scores: str
    selected: str
    centre: bool


@dataclass(frozen=True)
class Part:
    """A part of the tensor named `value`: a slice along `axis` from index `start` to index `stop`.

    If `start` is None, the part is the whole tensor. If `stop` is None, the slice reaches to the end of the
    axis. If `times` is an index, the slice is multiplied by another slice: the one at this index of the axis.
    If `one` is true, the slice has length 1, and the axis is removed. If `turned` is true, the last two axes
    are exchanged.
    """

    value: str
    start: int | None = None
    stop: int | None = None
    axis: int = -1
    times: int | None = None
    one: bool = False
    turned: bool = False

    @property
    def whole(self) -> bool:
        """Whether the part is the whole tensor, unchanged."""
        return self.start is None and not self.one and not self.turned


def find_suppression(content: bytes) -> Suppression | None:
    """Return the NonMaxSuppression whose indices are an output of the graph.

    Return None if there is no such operator, or more than one. Raises UnreadableModel if `content` is not a
    valid ONNX file.
    """
    model = parse_model(content)
    producers = {output: node for node in model.graph.node for output in node.output}
    found = []
    for output in model.graph.output:
        name = output.name
        for _ in range(len(model.graph.node)):
            node = producers.get(name)
            if node is None or node.op_type not in _SAME or not node.input:
                break
            name = node.input[0]
        node = producers.get(name)
        if node is not None and node.op_type == "NonMaxSuppression":
            centre = any(one.name == "center_point_box" and one.i == 1 for one in node.attribute)
            found.append(Suppression(node.input[0], node.input[1], output.name, centre))
    return found[0] if len(found) == 1 else None


def with_outputs(content: bytes, parts: Mapping[str, Part]) -> tuple[bytes, tuple[str, ...]]:
    """Return the ONNX file with each of `parts` as an output, and a description of each change.

    `parts` maps names to parts. A slice of a tensor becomes an output with its name in `parts`. A whole
    tensor keeps its own name; if it is an output already, nothing is added. Weights that are listed as inputs
    become constants. Raises UnreadableModel if the file cannot be read or its graph lacks a tensor that
    `parts` names.
    """
    from onnx import helper

    model = parse_model(content)
    changes = without_weights_as_inputs(model)
    kinds = _kinds(model)
    outputs = {output.name for output in model.graph.output}
    for name, part in parts.items():
        if part.whole and part.value in outputs:
            continue
        if part.value not in kinds:
            raise UnreadableModel(f"it has no value '{part.value[:100]}' in its main graph")
        if part.whole:
            model.graph.output.append(helper.make_tensor_value_info(part.value, kinds[part.value], None))
            changes += (f"value '{part.value}' added as output",)
        else:
            _add(model, name, part, kinds[part.value])
            changes += (f"part of '{part.value}' added as output '{name}'",)
    return (serialized(model) if changes else content), changes


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Return the type of each value that the main graph computes, by the value's name.

    If the file does not state the type, it is taken to be float, or int64 for NonMaxSuppression's output.
    """
    from onnx import TensorProto

    kinds = {output: int(TensorProto.FLOAT) for node in model.graph.node for output in node.output if output}
    for value in (*model.graph.value_info, *model.graph.output):
        if value.type.tensor_type.elem_type:
            kinds[value.name] = value.type.tensor_type.elem_type
    for node in model.graph.node:
        if node.op_type == "NonMaxSuppression":
            kinds[node.output[0]] = int(TensorProto.INT64)
    return kinds


def _add(model: onnx.ModelProto, name: str, part: Part, kind: int) -> None:
    """Add the operators that compute `part`, and an output `name` with its values."""
    from onnx import helper

    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
    build = _Builder(model, f"{name}.part", opset)
    last = part.value
    if part.start is not None:
        whole = last
        last = build.slice(whole, part.start, part.stop, part.axis)
        if part.times is not None:
            factor = build.slice(whole, part.times, part.times + 1, part.axis)
            last = build.node("Mul", [last, factor])
    if part.one:
        last = build.squeeze(last, part.axis)
    if part.turned:
        last = build.node("Transpose", [last], perm=[0, 2, 1])
    model.graph.node.append(helper.make_node("Identity", [last], [name]))
    model.graph.output.append(helper.make_tensor_value_info(name, kind, None))


class _Builder:
    """Adds operators to a graph.

    In some opsets, an operator takes a setting as an attribute, in others as an input. The builder does what
    the graph's opset requires.
    """

    def __init__(self, model: onnx.ModelProto, prefix: str, opset: int) -> None:
        self._graph = model.graph
        self._prefix = prefix
        self._opset = opset
        self._count = 0

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        output = self._name()
        self._graph.node.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def slice(self, value: str, start: int, stop: int | None, axis: int) -> str:
        end = 2**31 - 1 if stop is None else stop
        if self._opset < 10:
            return self.node("Slice", [value], starts=[start], ends=[end], axes=[axis])
        return self.node("Slice", [value, *(self._constant(number) for number in (start, end, axis))])

    def squeeze(self, value: str, axis: int) -> str:
        if self._opset < 13:
            return self.node("Squeeze", [value], axes=[axis])
        return self.node("Squeeze", [value, self._constant(axis)])

    def _constant(self, number: int) -> str:
        from onnx import TensorProto, helper

        name = self._name()
        self._graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [number]))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}.{self._count}"
