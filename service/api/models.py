"""/models: list models (cards, and reasons if not served); add, replace and delete own models."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field

from models.zoo.card import Accuracy, Activation, Agreement, Card, Runtime
from service import errors
from service.api.body.image import PRECISION
from service.api.body.model import OPENAPI_BODY, uploaded_model
from service.api.body.request import app_part, root_of
from service.api.model_changer import ModelChanger, exists
from service.api.problems import documented
from service.api.routers import key_needed, new_router, own_key_needed
from service.inference.loading import ModelEntry, ServedModel, served_accuracy, served_agreement
from service.inference.registry import Registry
from service.inference.runtimes.base import RuntimeName
from service.inference.runtimes.choice import Origin, Requested
from service.inference.runtimes.opening import runtime_version
from service.inference.runtimes.openvino import FloatPrecision
from service.inference.runtimes.weighing import Answers, Weighing

router = new_router("models")


class WeighedOut(BaseModel):
    """OpenVINO compared with ONNX Runtime on this machine."""

    at: datetime
    precision: str = Field(description="Precision in which OpenVINO ran the network", examples=["bf16"])
    onnxruntime_ms: float = Field(description="Median of a run; 0 if it was not timed")
    openvino_ms: float = Field(description="Median of a run; 0 if it was not timed")
    speedup: float = Field(description="OpenVINO's speed divided by ONNX Runtime's; 0 if it was not timed")
    low: float = Field(description="Lower end of its 95 % interval, in the process that measured")
    high: float = Field(description="Upper end of its 95 % interval, in the process that measured")
    faster: bool = Field(
        description="Whether OpenVINO is faster: by at least 3 %, at the level of benchmarks"
    )
    agree: bool = Field(
        description="Whether the answers agree: `same` and `deviation` of `answers` are within their bounds"
    )
    answers: Answers | None = Field(description="null if one of the runtimes cannot run the model")
    problem: str | None = Field(
        description="Why the runtimes were not compared: one of them cannot run the model, or the model is "
        "too slow to be timed; else null"
    )


class RuntimeOut(BaseModel):
    """Runtime of a model's predictions. Embeddings and class maps are always computed by ONNX Runtime."""

    name: RuntimeName
    version: str = Field(examples=["1.32.0"])
    precision: str = PRECISION
    chosen: Runtime = Field(description="The chosen runtime, or `auto` for the better one")
    origin: Origin = Field(
        description="Where the choice is from: a `request` (`PUT /models/{name}/runtime`), the model's "
        "`card`, or the `setting` WEIGHIN_RUNTIME"
    )
    reason: str | None = Field(
        description="Why ONNX Runtime runs the predictions although it was not chosen; else null"
    )
    weighed: WeighedOut | None = Field(
        description="Both runtimes compared; null if they were not compared on this machine"
    )


class ModelOut(BaseModel):
    """A model of the zoo."""

    name: str
    loaded: bool
    reason: str | None = Field(description="Why it is not loaded, or why its latest run failed")
    version: str | None = Field(
        description="SHA-256 of the file that is served; null if it is not loaded",
        examples=["c6970c698af0977d7beda4d3eb2df8630dbbdf2afcffe5a384b736aba5787d5b"],
    )
    refused: str | None = Field(
        description="Why the new content of its folder is not served; the previous version is still served",
        examples=[None],
    )
    activation: Activation | None = Field(
        description="Activation at the end of the network, from its card or its file; with `softmax` or "
        "`sigmoid`, the service applies no softmax. null if the model is not loaded"
    )
    runtime: RuntimeOut | None = Field(description="null if the model is not loaded")
    accuracy: Accuracy | None = Field(
        description="Accuracy of the served model, from its card. Its kind is `inherited` if the network "
        "runs in another precision than the card's, or if it is an int8 network in OpenVINO"
    )
    agreement: Agreement | None = Field(
        description="How often the predictions agree with those of the model or precision that an inherited "
        "`accuracy` is of; null if the accuracy is not inherited, or if this was not measured yet"
    )
    assumed: list[str] = Field(
        description="Paths of the card's facts that were assumed. If facts of `input`, `outputs` or "
        "`labels` are among them, predictions may be wrong",
        examples=[[]],
    )
    card: Card | None = Field(description="null if the card itself is invalid")


class ModelsResponse(BaseModel):
    """All models of the zoo, including broken ones."""

    models: list[ModelOut]


class AddedModelOut(ModelOut):
    """A model that was added. In its card, `card.provenance` has the origin of each fact."""

    changes: list[str] = Field(description="Differences between the served file and the file that was sent")
    warnings: list[str] = Field(description="What may be wrong, such as assumed facts")


_UPLOAD_ERRORS = (
    errors.MalformedRequest,
    errors.Unauthorized,
    errors.NoKeySet,
    errors.CrossSiteRequest,
    errors.BodyTooLarge,
    errors.RefusedModel,
    errors.InvalidParameter,
    errors.Busy,
    errors.NotReady,
    errors.DeadlineExceeded,
    errors.StorageUnavailable,
)
Preset = Annotated[
    str | None,
    Query(description="Framework whose conventions apply, as with `--preset`", examples=["torchvision"]),
]


@router.get("/models", summary="List models")
async def models(request: Request) -> ModelsResponse:
    """List every model of the zoo.

    `reason` is set if a model is not loaded or its latest run failed.
    """
    return models_out(app_part(request, Registry))


@router.get("/models/{name}", summary="Get a model", responses=documented(errors.UnknownModel))
async def model(request: Request, name: str) -> ModelOut:
    """Return a model's card.

    `reason` is set if the model is not loaded or its latest run failed.
    """
    return _out(app_part(request, Registry).entry(name))


@router.post(
    "/models",
    summary="Add a model",
    status_code=201,
    dependencies=[Depends(own_key_needed)],
    responses=documented(*_UPLOAD_ERRORS, errors.ModelExists),
    openapi_extra=OPENAPI_BODY,
)
async def add_model(
    request: Request,
    response: Response,
    name: Annotated[str | None, Query(description="Name of the model; by default the file's")] = None,
    preset: Preset = None,
) -> AddedModelOut:
    """Add an ONNX file as `weighin add` does: find out its preprocessing, run it once, and serve it.

    The model is served before the response is sent. Other replicas on the same PostgreSQL database serve it
    soon after. `card.provenance` says where each fact comes from; `assumed` means that no source states
    the fact.
    """
    changer = app_part(request, ModelChanger)
    await changer.catch_up()
    if name is not None and name in app_part(request, Registry).names():
        raise exists(name)
    described = await _uploaded(request, name, preset, replace=False)
    response.headers["Location"] = f"{root_of(request)}/models/{described.name}"
    return described


@router.put(
    "/models/{name}",
    summary="Replace a model",
    dependencies=[Depends(own_key_needed)],
    responses={
        201: {"model": AddedModelOut, "description": "Added: no model had that name"},
        **documented(*_UPLOAD_ERRORS, errors.ModelInUse),
    },
    openapi_extra=OPENAPI_BODY,
)
async def replace_model(
    request: Request, response: Response, name: str, preset: Preset = None
) -> AddedModelOut:
    """Replace an added model by an ONNX file. If no model has this name, add the file as a model (201).

    Requests in progress finish with the old version; requests after the response get the new one.
    """
    changer = app_part(request, ModelChanger)
    changer.check_own(name)
    await changer.catch_up()
    if name not in app_part(request, Registry).names():
        response.status_code = 201
        response.headers["Location"] = f"{root_of(request)}/models/{name}"
    return await _uploaded(request, name, preset, replace=True)


@router.delete(
    "/models/{name}",
    summary="Delete a model",
    status_code=204,
    dependencies=[Depends(own_key_needed)],
    responses=documented(
        errors.Unauthorized,
        errors.NoKeySet,
        errors.CrossSiteRequest,
        errors.UnknownModel,
        errors.ModelInUse,
        errors.Busy,
        errors.NotReady,
        errors.DatabaseUnreachable,
        errors.StorageUnavailable,
    ),
)
async def delete_model(request: Request, name: str) -> None:
    """Delete an added model. The default model and models that the gallery needs cannot be deleted."""
    await app_part(request, ModelChanger).delete(name)


@router.put(
    "/models/{name}/runtime",
    summary="Choose a model's runtime",
    dependencies=[Depends(key_needed)],
    responses=documented(
        errors.Unauthorized,
        errors.CrossSiteRequest,
        errors.UnknownModel,
        errors.Busy,
        errors.NotReady,
        errors.ModelUnavailable,
        errors.StorageUnavailable,
    ),
)
async def choose_runtime(
    request: Request,
    name: str,
    runtime: Annotated[
        Literal[Runtime, "default"],
        Query(description="`default`: as the model's card or the setting WEIGHIN_RUNTIME says"),
    ],
    precision: Annotated[
        FloatPrecision | None,
        Query(
            description="Type of the float operators in OpenVINO; by default `bf16` on CPUs with "
            "instructions for it, else `f32`"
        ),
    ] = None,
) -> ModelOut:
    """Choose the runtime of the model's predictions.

    The choice is stored in the data directory under the model's name. It also applies to all replicas on
    the same PostgreSQL database.

    Requests in progress finish in the old runtime; requests after the response get the new one.
    """
    if precision is not None and runtime in ("onnxruntime", "default"):
        raise errors.InvalidParameter(f"precision '{precision}': not with runtime '{runtime}'")
    requested = None if runtime == "default" else Requested(runtime=runtime, floats=precision)
    return _out(await app_part(request, ModelChanger).choose_runtime(name, requested))


async def _uploaded(
    request: Request, name: str | None, preset: str | None, *, replace: bool
) -> AddedModelOut:
    changer = app_part(request, ModelChanger)
    with changer.place():
        async with uploaded_model(request, changer.root, name=name, preset=preset) as upload:
            added = await changer.add(upload, replace=replace)
    described = _out(app_part(request, Registry).entry(added.card.name))
    return AddedModelOut(**dict(described), changes=list(added.changes), warnings=list(added.warnings))


def models_out(registry: Registry) -> ModelsResponse:
    """Build the response of `GET /models`, which `weighin models --json` writes too."""
    return ModelsResponse(models=[_out(entry) for entry in registry.entries])


def runtime_out(model: ServedModel) -> RuntimeOut:
    """Build the description of the runtime that runs the model's predictions."""
    predictor, choice = model.predictor, model.choice
    return RuntimeOut(
        name=predictor.runtime,
        version=runtime_version(predictor.runtime),
        precision=predictor.precision,
        chosen=choice.runtime,
        origin=choice.origin,
        reason=model.not_chosen,
        weighed=None if model.weighing is None else _weighed(model.weighing),
    )


def _weighed(weighing: Weighing) -> WeighedOut:
    names = WeighedOut.model_fields.keys() - {"agree"}
    facts = {name: getattr(weighing, name) for name in names}
    return WeighedOut(**facts, agree=weighing.answers is not None and weighing.answers.agree)


def _out(entry: ModelEntry) -> ModelOut:
    return ModelOut(
        name=entry.name,
        loaded=entry.model is not None,
        reason=entry.problem,
        version=None if entry.model is None else entry.model.version,
        refused=entry.refused,
        activation=None if entry.model is None else entry.model.session.activation,
        runtime=None if entry.model is None else runtime_out(entry.model),
        accuracy=served_accuracy(entry),
        agreement=served_agreement(entry),
        assumed=[] if entry.card is None else list(entry.card.assumed),
        card=entry.card,
    )
