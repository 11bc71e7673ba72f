"""Inputs and outputs of a model as tensors of the protocol, and the outputs that a request asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.zoo.card import Card, InputSpec
from service.api.v2.schemas import Datatype, InferRequest, RequestOutput
from service.errors import InvalidInferenceRequest
from service.inference.runtimes.base import unbatched_outputs

IMAGES: Datatype = "BYTES"
"""Datatype of an input of encoded images."""

_DATATYPES: Mapping[str, Datatype] = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8"}
_NAMED_ONLY = ("embedding", "features")
"""Outputs that are returned only if the request names them.

Only ONNX Runtime computes these outputs, and they may be large.
"""

PROBABILITIES = "probabilities"
"""Name of the output that is computed from a classifier's logits."""

BOXES, SCORES, CLASS_IDS, LABELS, COUNTS, LANDMARKS = (
    *("detected_boxes", "detected_scores", "detected_class_ids", "detected_labels"),
    *("detected_counts", "detected_landmarks"),
)
"""Names of the outputs with the objects that a detector finds.

The prefix distinguishes them from outputs of the graph, which may have names such as `boxes`.
"""


@dataclass(frozen=True)
class Output:
    """An output that a request can ask for.

    `role`: the output's name in the card if it is an output of the network; None if it is computed from
    outputs of the network. `shape`: size of each dimension, or -1 if the size varies. The first dimension
    counts the images.
    """

    name: str
    role: str | None
    datatype: Datatype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """An output that a request asks for.

    `binary`: whether its values are sent as bytes after the JSON. `top`: number of most probable classes to
    return; 0 for the whole tensor.
    """

    output: Output
    binary: bool
    top: int = 0

    @property
    def name(self) -> str:
        """Name of the output."""
        return self.output.name


def input_datatype(spec: InputSpec) -> Datatype:
    """Return the datatype of the graph's input."""
    return _DATATYPES[spec.dtype]


def outputs_of(card: Card) -> dict[str, Output]:
    """Return all outputs of a model by name: those of the graph, then what the service computes from them.

    A computed output, such as `probabilities`, is left out if the graph uses its name for another output.
    """
    varying = unbatched_outputs(card)
    found: dict[str, Output] = {}
    for role, shape in card.output_shapes.items():
        if role == "logits":
            shape = (card.classes,)  # without a background class
        elif role in varying:
            shape = (-1, *shape)
        elif card.detection is None and role != "features":
            shape = (math.prod(shape),)
        name = card.output_name(role)
        datatype: Datatype = "INT64" if role == "selected" else "FP32"
        found[name] = Output(name, role, datatype, (-1, *shape))
    for result in _results(card):
        found.setdefault(result.name, result)
    return found


def _results(card: Card) -> tuple[Output, ...]:
    if card.detection is None:
        return (Output(PROBABILITIES, None, "FP32", (-1, card.classes)),)
    points = getattr(card.detection.decoder, "landmarks", 0)
    return (
        Output(BOXES, None, "FP32", (-1, -1, 4)),
        Output(SCORES, None, "FP32", (-1, -1)),
        Output(CLASS_IDS, None, "INT64", (-1, -1)),
        Output(LABELS, None, "BYTES", (-1, -1)),
        Output(COUNTS, None, "INT64", (-1,)),
        *((Output(LANDMARKS, None, "FP32", (-1, -1, points, 2)),) if points else ()),
    )


def wanted_outputs(request: InferRequest, card: Card, number: int, *, images: bool) -> tuple[Wanted, ...]:
    """Return the outputs that a request with `number` images or tensors asks for, in the request's order.

    If the request names no outputs, all outputs are returned with three exceptions: `embedding` and
    `features`; the objects that a detector finds, if the request has tensors instead of `images`; and, for a
    batch, the outputs whose size depends on the image. Raises InvalidInferenceRequest.
    """
    varying = unbatched_outputs(card) if number > 1 else frozenset()
    known = outputs_of(card)
    binary = _flag(request.parameters, "binary_data_output", "request", default=False)
    if not request.outputs:
        return tuple(
            Wanted(output, binary)
            for output in known.values()
            if output.role not in _NAMED_ONLY
            and output.role not in varying
            and (images or card.detection is None or output.role)
        )
    found: dict[str, Wanted] = {}
    for given in request.outputs:
        output = known.get(given.name)
        if output is None:
            raise InvalidInferenceRequest(
                f"output '{given.name[:100]}': unknown to model '{card.name}' (allowed: {', '.join(known)})"
            )
        if given.name in found:
            raise InvalidInferenceRequest(f"output '{given.name}': asked for twice")
        if card.detection is not None and output.role is None and not images:
            raise InvalidInferenceRequest(
                f"output '{given.name}': of images only, because its unit is their pixels (allowed: input "
                f"'{card.input.name}' of datatype {IMAGES}, or the outputs of the network)"
            )
        if output.role in varying:
            raise InvalidInferenceRequest(
                f"output '{given.name}': its size depends on the image: {number} images (allowed: 1)"
            )
        found[given.name] = _wanted(given, output, card, binary=binary)
    return tuple(found.values())


def _wanted(given: RequestOutput, output: Output, card: Card, *, binary: bool) -> Wanted:
    where = f"output '{given.name}'"
    if "shared_memory_region" in given.parameters:
        raise InvalidInferenceRequest(f"{where}: shared memory is not supported (allowed: binary_data)")
    binary = _flag(given.parameters, "binary_data", where, default=binary)
    top = given.parameters.get("classification", 0)
    if top == 0 and not isinstance(top, bool):
        return Wanted(output, binary)
    if output.role != "logits" and (output.role is not None or output.name != PROBABILITIES):
        raise InvalidInferenceRequest(f"{where}: classification: not an output of classes")
    if not isinstance(top, int) or isinstance(top, bool) or top < 0:
        raise InvalidInferenceRequest(f"{where}: classification {shown(top)} (allowed: a number of classes)")
    return Wanted(output, binary, min(top, card.classes))  # as Triton does


def shown(value: Any) -> str:
    """Return a JSON value as text for a message.

    For an array or an object, which may nest deeply, the text says only which of the two it is.
    """
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    return repr(str(value)[:50])


def _flag(parameters: Mapping[str, Any], name: str, where: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInferenceRequest(f"{where}: {name} {shown(value)} (allowed: true, false)")
    return value
