"""GET /v2, GET /v2/models/{name} and POST /v2/repository/index: what is served."""

from __future__ import annotations

from importlib.metadata import version as version_of

import orjson
from fastapi import Request

from models.zoo.card import Card
from service import errors
from service.api.body.request import Bounds, app_part, in_time, read_body
from service.api.middleware.admission import MAX_JSON_BYTES
from service.api.middleware.context import note_model
from service.api.problems import documented
from service.api.routers import new_router
from service.api.v2.schemas import IndexEntry, ModelMetadata, ServerMetadata, Tensor
from service.api.v2.tensors import input_datatype, outputs_of
from service.errors import InvalidInferenceRequest, UnknownModel
from service.inference.loading import LOADING, ModelEntry, ServedModel
from service.inference.pool import Deadline
from service.inference.registry import Registry

router = new_router("inference protocol", protocol=True)

EXTENSIONS = ["binary_tensor_data", "classification", "encoded_images"]
"""Extensions of the protocol that the server has. The first two are Triton's.

`encoded_images` means that images may be sent instead of tensors.
"""

_LEAST_DIGITS = 4


def served_model(request: Request, name: str, version: str | None) -> ServedModel:
    """Return the model `name`. If the request fails, it is counted under this model.

    Raises the errors of `served_entry`, NotReady and ModelUnavailable.
    """
    served_entry(request, name, version)
    return app_part(request, Registry).get(name)


def served_entry(request: Request, name: str, version: str | None) -> ModelEntry:
    """Return the entry of a model. Raises UnknownModel.

    `version`: the SHA-256 of the model's file, or at least its first four digits; None for any version.
    """
    entry = app_part(request, Registry).entry(name)
    note_model(request, entry.name)
    if version is None:
        return entry
    served = _version(entry)
    if len(version) < _LEAST_DIGITS or not served.startswith(version.lower()):
        raise UnknownModel(
            name,
            (),
            f"model '{name}': no version '{version[:64]}' (allowed: {served or 'none'}, its SHA-256)",
        )
    return entry


def _version(entry: ModelEntry) -> str:
    card = entry.card if entry.model is None else entry.model.card
    return "" if card is None else card.file.sha256


@router.get("/v2", summary="Get the server's metadata")
async def server_metadata() -> ServerMetadata:
    """Return the name, version and extensions of the server."""
    return ServerMetadata(name="weighin", version=version_of("weighin"), extensions=EXTENSIONS)


_RESPONSES = documented(errors.UnknownModel, errors.NotReady, errors.ModelUnavailable, protocol=True)


@router.get(
    "/v2/models/{name}/versions/{version}",
    summary="Get the metadata of a version of a model",
    responses=_RESPONSES,
)
@router.get("/v2/models/{name}", summary="Get a model's metadata", responses=_RESPONSES)
async def model_metadata(request: Request, name: str, version: str | None = None) -> ModelMetadata:
    """Return the input and the outputs of a model.

    Encoded images (datatype `BYTES`) may be sent instead of the input.
    """
    model = served_model(request, name, version)
    card: Card = model.card
    spec = card.input
    return ModelMetadata(
        name=model.name,
        versions=[model.version],
        platform=f"{model.predictor.runtime}_onnx",
        inputs=[Tensor(name=spec.name, datatype=input_datatype(spec), shape=[-1, *spec.graph_shape])],
        outputs=[
            Tensor(name=output.name, datatype=output.datatype, shape=list(output.shape))
            for output in outputs_of(card).values()
        ],
    )


@router.post(
    "/v2/repository/index",
    summary="List the models",
    responses=documented(
        InvalidInferenceRequest,
        errors.BodyTooLarge,
        errors.CrossSiteRequest,
        errors.MalformedRequest,
        errors.DeadlineExceeded,
        protocol=True,
    ),
    openapi_extra={
        "requestBody": {
            "description": "`ready`: only models that are ready",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {"ready": {"type": "boolean", "default": False}},
                    }
                }
            },
        }
    },
)
async def repository_index(request: Request) -> list[IndexEntry]:
    """List all models with their state, as Triton's extension `model_repository` does."""
    deadline = Deadline.after(app_part(request, Bounds).deadline_s)
    body = await in_time(read_body(request, MAX_JSON_BYTES), deadline)
    try:
        asked = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise InvalidInferenceRequest(f"request: not JSON: {error}") from None
    ready = asked.get("ready", False) if isinstance(asked, dict) else None
    if not isinstance(ready, bool):
        raise InvalidInferenceRequest("request: (allowed: an object, with `ready` true or false)")
    entries = [_indexed(entry) for entry in app_part(request, Registry).entries]
    return [entry for entry in entries if entry.state == "READY" or not ready]


def _indexed(entry: ModelEntry) -> IndexEntry:
    if entry.model is not None:
        return IndexEntry(name=entry.name, version=_version(entry), state="READY", reason="")
    state: str = "LOADING" if entry.reason == LOADING else "UNAVAILABLE"
    return IndexEntry.model_validate(
        {"name": entry.name, "version": _version(entry), "state": state, "reason": entry.reason or ""}
    )
