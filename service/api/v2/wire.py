"""Read requests and write responses: JSON, after which the bytes of binary tensors may follow.

The binary form is Triton's extension `binary_tensor_data`. The field Inference-Header-Content-Length gives
the length of the JSON. `binary_data_size` of a tensor says how many of the bytes after the JSON belong to
this tensor.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray
from pydantic import ValidationError

from models.zoo.card import InputSpec
from service.api.v2.schemas import InferRequest, RequestInput
from service.api.v2.tensors import IMAGES, Wanted, input_datatype, shown
from service.errors import InvalidInferenceRequest
from service.inference.loading import ServedModel
from service.latency.stages import Durations

HEADER_LENGTH = "Inference-Header-Content-Length"
JSON, BINARY = "application/json", "application/octet-stream"

Batch = list[bytes] | NDArray[Any]
"""A list of encoded images, or a tensor in the graph's layout and dtype.

The first dimension of the tensor is the number of images.
"""
Values = dict[str, NDArray[Any] | list[str]]
"""Outputs of one image by name, without the batch dimension."""

_LENGTH = struct.Struct("<I")
_MOST_DIGITS = 15
_MOST_PROBLEMS = 3


def json_length(body: bytes, header: str | None) -> int:
    """Return the length of the JSON at the start of a body.

    `header`: the header field HEADER_LENGTH. It is None if it was not sent; the whole body is then JSON.

    Raises InvalidInferenceRequest.
    """
    if header is None:
        return len(body)
    digits = header.isascii() and header.isdigit() and len(header) <= _MOST_DIGITS
    if not digits or int(header) > len(body):
        raise InvalidInferenceRequest(
            f"{HEADER_LENGTH} {header[:50]!r}: not the length of the JSON (allowed: 0 to {len(body)}, the "
            "length of the body)"
        )
    return int(header)


def read_request(body: bytes, length: int) -> tuple[InferRequest, memoryview]:
    """Return the JSON object in the first `length` bytes of a body, and the bytes after it.

    Raises InvalidInferenceRequest.
    """
    content = memoryview(body)
    try:
        fields = orjson.loads(content[:length])
        return InferRequest.model_validate(fields), content[length:]
    except orjson.JSONDecodeError as error:
        words = f"request: not JSON: {error}"
        if length == len(body):
            words += f" (binary tensors need the header field {HEADER_LENGTH})"
        raise InvalidInferenceRequest(words) from None
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False, include_input=False)[:_MOST_PROBLEMS]:
            field, words = ".".join(map(str, problem["loc"])) or "request", problem["msg"]
            problems.append(f"{field}: {words[:1].lower()}{words[1:]}")
        raise InvalidInferenceRequest("; ".join(problems)) from None


def read_batch(request: InferRequest, binary: memoryview, spec: InputSpec, most: int) -> Batch:
    """Return the images, or the tensor, of a request for a network with the input `spec`.

    `binary`: the bytes after the JSON. `most`: maximum number of images. Raises InvalidInferenceRequest.
    """
    sizes = [_binary_size(given) for given in request.inputs]
    declared = sum(size or 0 for size in sizes)
    if declared != len(binary):
        raise InvalidInferenceRequest(
            f"binary data: {len(binary)} bytes after the JSON, the inputs' binary_data_size are {declared}"
        )
    if len(request.inputs) != 1 or request.inputs[0].name != spec.name:
        names = ", ".join(f"'{given.name[:50]}'" for given in request.inputs[:10]) or "none"
        raise InvalidInferenceRequest(f"inputs: {names} (allowed: one, '{spec.name}')")
    (given,), (size,) = request.inputs, sizes
    shape, datatype = tuple(given.shape), input_datatype(spec)
    if given.datatype not in (datatype, IMAGES):
        raise InvalidInferenceRequest(
            f"input '{spec.name}': datatype {given.datatype[:50]!r} (allowed: {datatype}, the network's, and "
            f"{IMAGES}, encoded images)"
        )
    if (given.data is None) == (size is None):
        raise InvalidInferenceRequest(
            f"input '{spec.name}': needs either data or binary_data_size, the bytes after the JSON"
        )
    images = given.datatype == IMAGES
    if images and not (len(shape) == 1 or shape[1:] == (1,)):
        raise InvalidInferenceRequest(f"input '{spec.name}': shape {given.shape} (allowed: [-1], [-1, 1])")
    if not images and shape[1:] != spec.graph_shape:
        raise InvalidInferenceRequest(
            f"input '{spec.name}': shape {given.shape} (allowed: {[-1, *spec.graph_shape]})"
        )
    if not 1 <= shape[0] <= most:
        raise InvalidInferenceRequest(f"input '{spec.name}': {shape[0]} images (allowed: 1 to {most})")
    if images:
        found = _base64_images(given) if size is None else _binary_images(given, binary)
        if b"" in found:
            raise InvalidInferenceRequest(f"input '{spec.name}': image {found.index(b'')} has 0 bytes")
        return found
    return _numbers(given, spec) if size is None else _binary_numbers(given, binary, spec)


def _binary_size(given: RequestInput) -> int | None:
    if "shared_memory_region" in given.parameters:
        raise InvalidInferenceRequest(
            f"input '{given.name[:50]}': shared memory is not supported (allowed: data, binary_data_size)"
        )
    size = given.parameters.get("binary_data_size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise InvalidInferenceRequest(
            f"input '{given.name[:50]}': binary_data_size {shown(size)} (allowed: a number of bytes)"
        )
    return size


def _binary_images(given: RequestInput, binary: memoryview) -> list[bytes]:
    """Return the elements of a binary tensor of BYTES. Each follows its length, which has 4 bytes."""
    found: list[bytes] = []
    start = 0
    while len(found) < given.shape[0] and start + _LENGTH.size <= len(binary):
        (length,) = _LENGTH.unpack_from(binary, start)
        start += _LENGTH.size
        found.append(bytes(binary[start : start + length]))
        start += length
    if start != len(binary) or len(found) != given.shape[0]:
        raise InvalidInferenceRequest(
            f"input '{given.name}': shape {given.shape}, but its {len(binary)} bytes are not "
            f"{given.shape[0]} elements of {IMAGES} (each: its length in 4 bytes, then its content)"
        )
    return found


def _base64_images(given: RequestInput) -> list[bytes]:
    items = given.data if isinstance(given.data, list) else []
    texts = [
        item[0] if isinstance(item, list) and len(item) == 1 else item for item in items[: given.shape[0]]
    ]
    if len(items) != given.shape[0] or not all(isinstance(text, str) for text in texts):
        raise InvalidInferenceRequest(
            f"input '{given.name}': data: {len(items)} items (needed: {given.shape[0]} texts in base64)"
        )
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError):
        raise InvalidInferenceRequest(
            f"input '{given.name}': data: not base64 (JSON holds text only; binary data take a third less)"
        ) from None


def _binary_numbers(given: RequestInput, binary: memoryview, spec: InputSpec) -> NDArray[Any]:
    kind = np.dtype(spec.dtype).newbyteorder("<")
    needed = math.prod(given.shape) * kind.itemsize
    if len(binary) != needed:
        raise InvalidInferenceRequest(
            f"input '{given.name}': {len(binary)} bytes, but shape {given.shape} of {given.datatype} has "
            f"{needed}"
        )
    return np.frombuffer(binary, kind).reshape(given.shape)


def _numbers(given: RequestInput, spec: InputSpec) -> NDArray[Any]:
    """Return the tensor that a request gives as a list of JSON numbers, either flat or nested."""
    where = f"input '{given.name}': data"
    items, kinds = [given.data], {type(given.data)}
    for _ in given.shape:
        if kinds != {list}:
            break
        items = list(chain.from_iterable(items))
        kinds = set(map(type, items))
    if not kinds <= {int, float}:  # before NumPy reads a text: each item would take as much as the longest
        raise InvalidInferenceRequest(f"{where}: not numbers throughout")
    try:
        values = np.asarray(given.data, np.float64)
    except ValueError:  # ragged
        raise InvalidInferenceRequest(f"{where}: rows of different lengths") from None
    if values.shape not in (tuple(given.shape), (math.prod(given.shape),)):
        raise InvalidInferenceRequest(
            f"{where}: {list(values.shape)} numbers (allowed: {given.shape}, or flat, "
            f"[{math.prod(given.shape)}])"
        )
    if spec.dtype == "uint8" and not ((values >= 0) & (values <= 255) & (values % 1 == 0)).all():
        raise InvalidInferenceRequest(f"{where}: not whole numbers from 0 to 255")
    with np.errstate(over="ignore"):
        return values.astype(spec.dtype).reshape(given.shape)


def write_response(
    request: InferRequest,
    model: ServedModel,
    wanted: Sequence[Wanted],
    results: Sequence[Values],
    durations: Durations | None,
) -> Response:
    """Return the response with the outputs `wanted` of each image.

    `results`: the outputs of each image. `durations`: durations of the stages for the header field
    Server-Timing; None to leave the field out.

    Raises InvalidInferenceRequest if outputs of several images differ in size.
    """
    outputs: list[dict[str, Any]] = []
    pieces: list[bytes] = []
    for one in wanted:
        values, shape = _joined(one, [result[one.name] for result in results])
        fields: dict[str, Any] = {"name": one.name, "datatype": "BYTES" if one.top else one.output.datatype}
        fields["shape"] = shape
        if not one.binary:
            fields["data"] = values if isinstance(values, list) else values.ravel()
        else:
            content = _bytes(values)
            fields["parameters"] = {"binary_data_size": len(content)}
            pieces.append(content)
        outputs.append(fields)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": model.version, "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    header = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {HEADER_LENGTH: str(len(header))} if pieces else {}
    if durations is not None:
        timings = (f"{stage};dur={nanoseconds / 1e6:.3f}" for stage, nanoseconds in durations.items())
        headers["Server-Timing"] = ", ".join(timings)
    return Response(b"".join([header, *pieces]), headers=headers, media_type=BINARY if pieces else JSON)


def _joined(
    wanted: Wanted, values: list[NDArray[Any] | list[str]]
) -> tuple[NDArray[Any] | list[str], list[int]]:
    """Join the values of one output from all images. Return the joined values and their shape.

    If images have different numbers of detected objects, the values are padded to the largest number. The
    padding of class ids is -1, that of labels is an empty text, and that of other values is 0.
    """
    if isinstance(values[0], list):
        most = max(map(len, values))
        padded = [text for texts in values for text in (*texts, *[""] * (most - len(texts)))]
        return padded, [len(values), most]
    arrays = [np.asarray(value) for value in values]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 and wanted.output.role is not None:
        raise InvalidInferenceRequest(
            f"output '{wanted.name}': its size depends on the image: {sorted(shapes)} (allowed: one image)"
        )
    if len(shapes) > 1:
        most = max(map(len, arrays))
        fill = -1 if wanted.output.datatype == "INT64" else 0
        arrays = [
            np.pad(array, [(0, most - len(array)), *[(0, 0)] * (array.ndim - 1)], constant_values=fill)
            for array in arrays
        ]
    joined = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
    return np.ascontiguousarray(joined), list(joined.shape)


def _bytes(values: NDArray[Any] | list[str]) -> bytes:
    """Return a tensor in binary form: little-endian numbers, or texts, each preceded by its length."""
    if isinstance(values, list):
        texts = [text.encode() for text in values]
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
