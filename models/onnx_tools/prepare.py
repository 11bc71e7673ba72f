"""Prepare an ONNX file from elsewhere to be served.

External tensors are moved into the file, weights are no longer inputs, and the embedding becomes an output.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.onnx_tools.describe import TensorInfo, dtype_name, info
from models.onnx_tools.file_kind import what_it_is
from models.onnx_tools.inspect import (
    IN_MEMORY,
    MAX_BYTES,
    UnreadableModel,
    external_files,
    is_external,
    parse_model,
    tensors,
)
from models.onnx_tools.last_linear import Head, LastLinear, NoLinearLayer, find_last_linear
from models.onnx_tools.shapes import Outline, Shape, inline, outline
from models.zoo.display import counted, shown
from models.zoo.files import read_regular

if TYPE_CHECKING:
    import onnx

__all__ = ["Head", "Prepared", "consolidate", "data_files", "prepare"]

_SAME_VALUES = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_LONGEST_NAME = 256  # of an output, in a card
_READING = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_FIRST_WITHOUT_INPUTS = 4  # first IR version in which initializers need not be inputs


@dataclass(frozen=True)
class Prepared:
    """An ONNX file to serve, and the changes that were made to it.

    `content` is the given file if nothing had to change. `changes` describes each change in words.
    `embedding` is the output that gives the values that the last linear layer reads, (N, channels), possibly
    with further sides of length 1. `features` is the output that gives the last feature map (N, channels,
    height, width), if the mean of this map over all positions is the embedding. The given file may have had
    these outputs already. `head` has the weights of the last linear layer. If there is no embedding, `reason`
    says why. If there is an embedding, but no head or no features, `no_maps` says why.
    """

    content: bytes
    changes: tuple[str, ...]
    embedding: TensorInfo | None
    features: TensorInfo | None
    head: Head | None
    reason: str | None
    no_maps: str | None = None


def consolidate(path: Path) -> bytes:
    """Return the ONNX file at `path` as one file, into which its external tensors are moved.

    The tensors are read only from regular files in the folder of `path` and its subfolders. Raises
    UnreadableModel, which names what is missing or not allowed, and OSError if `path` cannot be read.
    """
    size = os.stat(path).st_size
    if size > MAX_BYTES:
        raise UnreadableModel(f"it is a file of {size} bytes (allowed: {MAX_BYTES})")
    content = read_regular(path)
    model = _parsed(content)
    external = [tensor for tensor in tensors(model) if is_external(tensor)]
    if not external:
        return content
    for tensor in external:
        if tensor.data_location != tensor.EXTERNAL:  # the runtime decides by `data_location`
            tensor.ClearField("external_data")
    external = [tensor for tensor in external if tensor.external_data or tensor.data_location]
    places = [_place(tensor, path) for tensor in external]
    total = size + sum(place.length for place in places)
    if total > MAX_BYTES:
        raise UnreadableModel(
            f"it is a model of {total} bytes with its external data (allowed: {MAX_BYTES}, as one file)"
        )
    for tensor, place in zip(external, places, strict=True):
        tensor.raw_data = place.read()
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return serialized(model)


def data_files(path: Path) -> dict[str, Path]:
    """Return the external data files of the ONNX file at `path`, sorted by the location that the file states.

    Raises UnreadableModel and OSError as `consolidate` does.
    """
    content = read_regular(path)
    if not external_files(content):
        return {}
    external = [tensor for tensor in tensors(_parsed(content)) if tensor.data_location == tensor.EXTERNAL]
    found = {_entry(tensor, "location"): _place(tensor, path).path for tensor in external}
    return dict(sorted(found.items()))


def prepare(content: bytes, logits: str) -> Prepared:
    """Return the ONNX file `content` with the outputs that the service needs.

    `logits` is the name of the output with the scores.

    The file's own outputs stay bit-identical, except in float16 graphs. ONNX Runtime may compute such a graph
    in float32, but it rounds every output to float16. If this function makes a value inside the graph an
    output, the value is rounded where it was not before, which changes the logits by about one unit in
    float16's last place. Raises UnreadableModel for bytes that are not an ONNX file, and for a missing
    output.
    """
    model = parse_model(content)
    outputs = [value.name for value in model.graph.output]
    if logits not in outputs:
        raise UnreadableModel(f"it has no output '{logits[:100]}' (allowed: {', '.join(outputs)[:300]})")
    changes = without_weights_as_inputs(model)
    whole = inline(model)
    outlined = outline(whole)
    try:
        found = find_last_linear(whole, outlined, logits)
    except NoLinearLayer as why:
        return Prepared(serialized(model) if changes else content, changes, None, None, None, str(why))
    if whole is not model and not _has(model, found):
        changes += (f"{counted(len(model.functions), 'function', 'functions')} inlined",)
        model = whole
    embedding, more = _expose(model, outlined, "embedding", found)
    changes += more
    features = None
    if found.features is not None:
        features, more = _expose(model, outlined, "features", found)
        changes += more
    return Prepared(
        serialized(model) if changes else content,
        changes,
        embedding,
        features,
        found.head,
        None,
        found.no_maps,
    )


def _parsed(content: bytes) -> onnx.ModelProto:
    """Return the protobuf message of the ONNX file `content`.

    Raises UnreadableModel if it is not an ONNX file. The message says what kind of file it is, if this is
    known.
    """
    try:
        return parse_model(content)
    except UnreadableModel as error:
        raise UnreadableModel(what_it_is(content) or str(error)) from None


@dataclass(frozen=True)
class _Place:
    """The place of a tensor's values in an external file.

    `path` is the file, with links resolved, and `location` is the path as the ONNX file states it. The values
    begin at `offset` and take `length` bytes.
    """

    path: Path
    location: str
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the values' bytes. Raises UnreadableModel if the file cannot be read or is too short."""
        try:
            handle = os.open(self.path, _READING)
            with open(handle, "rb") as file:
                file.seek(self.offset)
                values = file.read(self.length)
        except OSError as error:
            raise UnreadableModel(
                f"its external data '{self.location}' cannot be read: {error.strerror}"
            ) from None
        if len(values) < self.length:
            raise UnreadableModel(f"its external data '{self.location}' has become shorter")
        return values


def _place(tensor: onnx.TensorProto, model: Path) -> _Place:
    """Return the place of an external tensor's values.

    Raises UnreadableModel if the external file is missing, is outside the model's folder or is no regular
    file, and if the stated offset or length does not fit.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    named = shown(location[:80])
    if IN_MEMORY in location:
        raise UnreadableModel(f"tensor '{shown(tensor.name[:80])}' refers to an address in memory")
    parts = re.split(r"[/\\]", location)
    if not location.strip() or "\0" in location or ".." in parts or not parts[0] or ":" in parts[0]:
        raise UnreadableModel(
            f"its external data is at '{named}' (allowed: a file in the folder of {model.name})"
        )
    folder = model.parent.resolve()
    try:
        path = (folder / location).resolve(strict=True)
        status = path.stat()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        raise UnreadableModel(
            f"its external data is missing: put '{named}' into the folder of {model.name}"
        ) from None
    if not path.is_relative_to(folder):
        raise UnreadableModel(
            f"its external data '{named}' is a link out of the folder of {model.name}: copy the file there"
        )
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableModel(f"its external data '{named}' is not a regular file")
    needed = _bytes(tensor)
    offset, length = _number(entries, "offset", 0), _number(entries, "length", needed)
    if length != needed:
        raise UnreadableModel(
            f"its external data '{named}' has {length} bytes for tensor '{shown(tensor.name[:80])}', "
            f"not {needed}"
        )
    if offset + length > status.st_size:
        raise UnreadableModel(
            f"its external data '{named}' is cut off: {status.st_size} bytes, {offset + length} are needed"
        )
    return _Place(path, named, offset, length)


def _entry(tensor: onnx.TensorProto, key: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def _number(entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, "")
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise UnreadableModel(f"it is a damaged ONNX file: {key} of external data is '{shown(text[:80])}'")
    return int(text)


def _bytes(tensor: onnx.TensorProto) -> int:
    """Return the size in bytes of a tensor's raw data. Raises UnreadableModel for a type without raw data."""
    from onnx import TensorProto, helper

    elements = 1
    for side in tensor.dims:
        elements *= max(side, 0)
    kind = dtype_name(tensor.data_type)
    if kind in ("undefined", "string"):
        raise UnreadableModel(
            f"it is a damaged ONNX file: tensor '{shown(tensor.name[:80])}' of type {kind} is external"
        )
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
        return (elements + 1) // 2
    if kind in ("int2", "uint2"):
        return (elements + 3) // 4
    return elements * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def without_weights_as_inputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """Remove weights from the graph's inputs, since a caller could override weights that are inputs.

    Return a description of each change.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    removed = len(model.graph.input) - len(kept)
    if not removed or not kept:
        return ()
    del model.graph.input[:]
    model.graph.input.extend(kept)
    changes: tuple[str, ...] = (f"{counted(removed, 'initializer', 'initializers')} removed from the inputs",)
    if model.ir_version < _FIRST_WITHOUT_INPUTS:
        changes += (f"IR version {model.ir_version} raised to {_FIRST_WITHOUT_INPUTS}, which allows that",)
        model.ir_version = _FIRST_WITHOUT_INPUTS
    return changes


def _has(model: onnx.ModelProto, found: LastLinear) -> bool:
    """Return whether the main graph computes the embedding and, if there is one, the feature map."""
    made = {output for node in model.graph.node for output in node.output}
    return {found.embedding, found.features or found.embedding} <= made


def _expose(
    model: onnx.ModelProto, outlined: Outline, role: str, found: LastLinear
) -> tuple[TensorInfo, tuple[str, ...]]:
    """Make the embedding or the feature map an output of the graph, unless it is an output already.

    `role` is `embedding` or `features`. Return the output and a description of each change.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    if role == "features" and found.features is not None:
        name, passed = found.features, frozenset({"Dropout", "Identity"})
        value = outlined.values[name]
        kind, shape = value.kind, value.shape or ()
    else:
        name, passed = found.embedding, _SAME_VALUES
        kind, shape = found.kind, found.shape
    quantized = found.quantized if role == "embedding" else ()
    if not quantized:
        producers = {output: node for node in graph.node for output in node.output[:1]}
        sources: dict[str, str] = {}
        source = _source(producers, name, passed, sources)
        for output in graph.output:
            if _source(producers, output.name, passed, sources) == source and info(
                output
            ).dtype == dtype_name(kind):
                return replace(
                    info(output), shape=(_batch(graph), *_inferred(outlined, output.name, shape)[1:])
                ), ()
    taken = {each for node in graph.node for each in (*node.input, *node.output)}
    words = f"output '{name}' added as {role}"
    if quantized or len(name) > _LONGEST_NAME:
        own = next(each for each in _numbered(role) if each not in taken)
        node = helper.make_node(
            "DequantizeLinear" if quantized else "Identity", [name, *quantized], [own], name=own
        )
        graph.node.append(node)
        kind = TensorProto.FLOAT if quantized else kind
        name, words = own, f"operator {node.op_type} and output '{own}' added as {role}"
    shape = (_batch(graph), *shape[1:])
    graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    return TensorInfo(name, dtype_name(kind), shape), (words,)


def _numbered(name: str) -> Sequence[str]:
    return [name, *(f"{name}.{number}" for number in range(2, 1000))]


def _source(
    producers: Mapping[str, onnx.NodeProto], name: str, passed: frozenset[str], sources: dict[str, str]
) -> str:
    """Return the earliest value that has the same numbers in the same order as the value `name`.

    `passed` are the operators that keep the numbers and their order. `sources` caches the results.
    """
    way = []
    while name not in sources:
        sources[name] = name  # ends a circle; it is set again below
        node = producers.get(name)
        if node is not None and node.op_type in passed and node.input:
            way.append(name)
            name = node.input[0]
    sources.update(dict.fromkeys(way, sources[name]))
    return sources[name]


def _inferred(outlined: Outline, name: str, default: Shape) -> Shape:
    value = outlined.values.get(name)
    return default if value is None or not value.shape else value.shape


def _batch(graph: onnx.GraphProto) -> int | str | None:
    """Return the size of the batch, which is the first side of the first input, or None if it is unknown."""
    shape = info(graph.input[0]).shape if graph.input else ()
    return (shape[0] or None) if shape else None


def serialized(model: onnx.ModelProto) -> bytes:
    """Return the bytes of the ONNX file with this model. Raises UnreadableModel if it is too large."""
    try:
        return bytes(model.SerializeToString())
    except Exception:  # protobuf's EncodeError, and ValueError over 2 GiB
        raise UnreadableModel(f"it is larger than {MAX_BYTES} bytes as one file") from None
