"""Find external files and the last activation of an ONNX file; run nothing and open no other files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from models.onnx_tools.file_kind import read_varint
from models.zoo.card import Activation

if TYPE_CHECKING:
    import onnx

_ACTIVATIONS: dict[str, Activation] = {
    "Softmax": "softmax",
    "QLinearSoftmax": "softmax",
    "Sigmoid": "sigmoid",
    "QLinearSigmoid": "sigmoid",
}
_VALUE_PRESERVING = frozenset(
    {
        "Cast",
        "Clip",
        "DequantizeLinear",
        "Dropout",
        "Flatten",
        "Identity",
        "QuantizeLinear",
        "Reshape",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
MAX_BYTES = 2**31 - 1
"""Maximum size of a protocol buffers message."""
IN_MEMORY = "_ORT_MEM_ADDR_"
"""Mark in a tensor's location that makes ONNX Runtime read the tensor from an address in its own memory."""
MAX_NODES = 200_000
"""Maximum number of operators in a file, after its functions are inlined."""
TOO_MANY_NODES = f"it has more than {MAX_NODES} operators"
_NO_TEXT = "it is a damaged ONNX file: a text in it is not UTF-8"


class UnreadableModel(ValueError):
    """The content is not an ONNX file, or is damaged or too large."""


def import_onnx() -> None:
    """Import the onnx package now, so that processes forked from this one have it already."""
    import onnx  # noqa: F401


def external_files(content: bytes) -> tuple[str, ...]:
    """Return the sorted base names of the external files that hold tensors of the ONNX file `content`.

    If there are no such files, return (). All tensors are considered: those of initializers, sparse
    initializers, attributes, subgraphs, functions and training. Raises UnreadableModel for content that
    cannot be parsed.
    """
    if b"location" not in without_weights(content):  # a key that every external tensor must have
        return ()
    return tuple(sorted({_base_name(tensor) for tensor in tensors(parse(content)) if is_external(tensor)}))


def output_activation(content: bytes, output: str) -> Activation:
    """Return the activation that computes `output`: "softmax", "sigmoid" or "none".

    Operators after the activation that preserve its values, e.g. Reshape and QuantizeLinear, are skipped. The
    file's functions are searched too.
    Raises UnreadableModel for content that cannot be parsed.
    """
    rest = without_weights(content)
    if not any(_operator_field(name) in rest for name in _ACTIVATIONS):
        return "none"
    model = parse(content)
    functions = {(function.domain, function.name): function for function in model.functions}
    made = _producers(model.graph.node)
    steps = len(model.graph.node) + sum(len(function.node) for function in model.functions)
    callers: list[tuple[dict[str, onnx.NodeProto], onnx.NodeProto, dict[str, int]]] = []
    # for each call: producers of the caller's values, the calling node, positions of the function's inputs
    bodies: dict[tuple[str, str], tuple[dict[str, onnx.NodeProto], dict[str, int]]] = {}
    for _ in range(steps):  # bounded, because a damaged graph may have a cycle
        node = made.get(output)
        if node is None:  # an input of a function or of the graph
            if not callers:
                return "none"
            made, caller, inputs = callers.pop()
            place = inputs.get(output, len(caller.input))
            output = caller.input[place] if place < len(caller.input) else ""
            continue
        function = functions.get((node.domain, node.op_type))
        if function is not None:
            position = list(node.output).index(output)
            if position >= len(function.output):
                return "none"
            key = (node.domain, node.op_type)
            if key not in bodies:
                inputs = {name: place for place, name in enumerate(function.input)}
                bodies[key] = (_producers(function.node), inputs)
            callers.append((made, node, bodies[key][1]))
            made, output = bodies[key][0], function.output[position]
        elif node.op_type in _VALUE_PRESERVING and node.input:
            output = node.input[0]
        else:
            return _ACTIVATIONS.get(node.op_type, "none")
    return "none"


def _producers(nodes: Sequence[onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    """Return the first node that computes each value, by the value's name."""
    made: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        for output in node.output:
            made.setdefault(output, node)
    return made


def _operator_field(name: str) -> bytes:
    """Return the bytes by which a node of an ONNX file states that its operator is `name`.

    They are the number of the field (4), the length of the name, and the name.
    """
    return bytes((0x22, len(name))) + name.encode()


_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
"""Numbers of the fields `ModelProto.graph`, `GraphProto.initializer` and `TensorProto.raw_data`."""
_LARGE = 1024
"""Minimum size in bytes of an initializer whose values `without_weights` leaves out."""


def without_weights(content: bytes) -> bytes:
    """Return an ONNX file's bytes without the values of large initializers.

    In the result, names can be searched fast. Only `raw_data` of initializers of the outermost graph is left
    out, since it holds no names. Content in which these initializers cannot be found is returned unchanged.
    """
    kept: list[bytes] = []
    copied = 0
    try:
        for graph_start, graph_end in _fields(content, 0, len(content), _GRAPH):
            for start, end in _fields(content, graph_start, graph_end, _INITIALIZER):
                if end - start < _LARGE:
                    continue
                for value_start, value_end in _fields(content, start, end, _RAW_DATA):
                    kept.append(content[copied:value_start])
                    copied = value_end
    except ValueError:
        return content
    return b"".join((*kept, content[copied:]))


def _fields(content: bytes, offset: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each field with number `wanted` in the message `content[offset:end]`.

    Raises ValueError if these bytes are not a valid message, or have groups, which ONNX does not use.
    """
    while offset < end:
        key, offset = read_varint(content, offset)
        kind = key & 7
        start = offset
        if kind == 0:
            _, offset = read_varint(content, offset)
        elif kind == 2:
            length, start = read_varint(content, offset)
            offset = start + length
        elif kind in (1, 5):
            offset += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if offset > end:
            raise ValueError("a field goes beyond the end of its message")
        if key == wanted << 3 | 2:
            yield start, offset


def parse(content: bytes) -> onnx.ModelProto:
    """Parse an ONNX file. Raises UnreadableModel for content that is not an ONNX file, or is over 2 GiB."""
    import onnx

    if len(content) > MAX_BYTES:
        raise UnreadableModel(f"ONNX file of {len(content)} bytes (allowed: {MAX_BYTES})")

    try:
        model = onnx.ModelProto()
        model.ParseFromString(content)
        return model
    except Exception:  # protobuf's DecodeError, and other errors for nested or huge messages
        raise UnreadableModel("not an ONNX file, or a damaged one: cannot be parsed") from None


def parse_model(content: bytes) -> onnx.ModelProto:
    """Return the protobuf message of an ONNX file that has a graph and whose texts outside tensors are UTF-8.

    Raises UnreadableModel for any other content, and for more than `MAX_NODES` operators.
    """
    import onnx

    model = parse(content)
    if not model.HasField("graph"):
        raise UnreadableModel("it is not an ONNX file: there is no graph in it")
    if len(model.graph.node) > MAX_NODES:  # before reading them one by one
        raise UnreadableModel(TOO_MANY_NODES)
    pending: list[Any] = [model]
    while pending:
        message = pending.pop()
        if isinstance(message, onnx.TensorProto):  # its values may be large
            pending.extend(message.external_data)
            texts = [message.name]
        else:
            try:
                fields = message.ListFields()
            except UnicodeDecodeError:
                raise UnreadableModel(_NO_TEXT) from None
            texts = []
            for field, value in fields:
                if field.message_type is not None:
                    pending.extend(value if field.is_repeated else (value,))
                elif field.type == field.TYPE_STRING:
                    texts.extend(value if field.is_repeated else (value,))
        if not all(isinstance(text, str) for text in texts):  # protobuf returns bytes if it is not UTF-8
            raise UnreadableModel(_NO_TEXT)
    return model


def tensors(root: Any) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a message, including those in fields that later versions of ONNX may add."""
    import onnx

    pending = [root]
    while pending:
        message = pending.pop()
        if isinstance(message, onnx.TensorProto):
            yield message
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                pending.extend(value if field.is_repeated else (value,))


def is_external(tensor: onnx.TensorProto) -> bool:
    """Return whether the values of a tensor are in another file."""
    return bool(tensor.external_data) or tensor.data_location == tensor.EXTERNAL


def _base_name(tensor: onnx.TensorProto) -> str:
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    if IN_MEMORY in location:
        return IN_MEMORY
    return re.split(r"[/\\]", location.rstrip("/\\"))[-1][:80] or "(no name)"
