"""JSON objects of the protocol, with the field names of its specification.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, StrictStr, WithJsonSchema

Datatype = Literal["FP32", "FP16", "UINT8", "INT64", "BYTES"]
Side = Annotated[int, Field(ge=0, strict=True)]
_MOST_SIDES, _MOST_TENSORS = 8, 64
"""Maximum lengths of lists that are validated item by item.

Without a maximum, a long list of wrong items would make as many errors.
"""
Data = Annotated[Any, WithJsonSchema({"type": "array", "items": {}})]
"""Content of a tensor as JSON.

It is validated only where the tensor is read, because a validator here would visit each number.
"""
Parameters = Annotated[
    dict[str, Any],
    Field(description="Unknown parameters are ignored, as the protocol says", default_factory=dict),
    BeforeValidator(lambda value: {} if value is None else value),
]


class RequestInput(BaseModel):
    """The tensor that the network takes, or encoded images from which the service computes this tensor."""

    name: StrictStr = Field(examples=["image"])
    shape: list[Side] = Field(
        description="Begins with the number of images", examples=[[1]], max_length=_MOST_SIDES
    )
    datatype: StrictStr = Field(description="`BYTES`: encoded images", examples=["BYTES"])
    parameters: Parameters = Field(
        default_factory=dict, description="`binary_data_size`: bytes of the tensor after the JSON"
    )
    data: Data = Field(default=None, description="Numbers, or encoded images in base64; flat or nested")


class RequestOutput(BaseModel):
    """An output to return."""

    name: StrictStr = Field(examples=["probabilities"])
    parameters: Parameters = Field(
        default_factory=dict,
        description="`binary_data`: return the bytes of the output after the JSON; `classification`: number "
        "of most probable classes to return instead of the tensor",
    )


class InferRequest(BaseModel):
    """A request for inference."""

    id: StrictStr | None = Field(default=None, description="Returned in the response", examples=["42"])
    parameters: Parameters = Field(
        default_factory=dict,
        description="`binary_data_output`: return the bytes of all outputs after the JSON; for detectors "
        "`min_score`, `max_detections` and `classes`, as in `POST /detect`",
    )
    inputs: list[RequestInput] = Field(description="One input", max_length=_MOST_TENSORS)
    outputs: list[RequestOutput] | None = Field(
        default=None,
        description="By default all outputs except `embedding` and `features`",
        max_length=_MOST_TENSORS,
    )


class ResponseOutput(BaseModel):
    """An output of the response."""

    name: str = Field(examples=["probabilities"])
    datatype: Datatype = Field(examples=["FP32"])
    shape: list[int] = Field(examples=[[1, 1000]])
    parameters: dict[str, Any] | None = Field(
        default=None, description="`binary_data_size`: bytes of the tensor after the JSON"
    )
    data: list[Any] | None = Field(
        default=None, description="Flat, row by row; left out if the bytes of the tensor follow the JSON"
    )


class InferResponse(BaseModel):
    """The outputs of a request."""

    model_name: str = Field(examples=["efficientnet-lite0-int8"])
    model_version: str = Field(description="SHA-256 of the model's file")
    id: str | None = Field(default=None, description="The request's id, if it has one")
    outputs: list[ResponseOutput]


class Tensor(BaseModel):
    """A tensor of a model."""

    name: str = Field(examples=["image"])
    datatype: Datatype = Field(examples=["FP32"])
    shape: list[int] = Field(description="-1: varies", examples=[[-1, 3, 224, 224]])


class ModelMetadata(BaseModel):
    """Inputs and outputs of a model."""

    name: str = Field(examples=["efficientnet-lite0-int8"])
    versions: list[str] = Field(description="The only version: the SHA-256 of the model's file")
    platform: str = Field(description="Runtime and file format", examples=["onnxruntime_onnx"])
    inputs: list[Tensor]
    outputs: list[Tensor]


class ServerMetadata(BaseModel):
    """Name, version and extensions of the server."""

    name: str = Field(examples=["weighin"])
    version: str
    extensions: list[str] = Field(examples=[["binary_tensor_data"]])


class ServerLive(BaseModel):
    """Whether the server answers."""

    live: bool


class ServerReady(BaseModel):
    """Whether all models are loaded."""

    ready: bool


class ModelReady(BaseModel):
    """Whether a model is loaded."""

    name: str
    ready: bool


class IndexEntry(BaseModel):
    """A model in the index of the repository."""

    name: str
    version: str = Field(description="SHA-256 of the model's file; empty if its card cannot be read")
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str = Field(description="Why it is not ready; else empty")


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of `model`, with each reference replaced by the schema that it refers to.

    OpenAPI would look for the references in another place.
    """
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolved(definitions[node["$ref"].rpartition("/")[2]])
        return {key: resolved(value) for key, value in node.items()}

    found: dict[str, Any] = resolved(schema)
    return found
