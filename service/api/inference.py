"""POST /classify and POST /compare: read the image, run the models, shape the response."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from models.zoo.card import Accuracy
from models.zoo.statistics import MIN_SAMPLES
from service import errors
from service.api.body.image import (
    IMAGE_ERRORS,
    OPENAPI_BODY,
    ClassifyTimings,
    ImageFacts,
    form_first,
    image_facts,
    read_image,
    timed_answer,
    timings,
)
from service.api.body.request import Bounds, deadline_for
from service.api.middleware.context import find_model
from service.api.problems import documented
from service.api.routers import new_router
from service.inference.classify import Classification, Classifier, Prediction, class_counts
from service.inference.compare import ComparedModel, Comparer, Comparison
from service.inference.registry import Registry
from service.latency.stages import milliseconds
from service.text.display import comma_list


class PredictionOut(BaseModel):
    """One class."""

    class_id: int = Field(examples=[281])
    label: str = Field(examples=["tabby"])
    probability: float = Field(
        description="Softmax over all classes, or the network's own where it ends in softmax or sigmoid",
        examples=[0.31],
    )


class ClassifyResponse(BaseModel):
    """What one model says of the image."""

    request_id: str = Field(examples=["7f9c2ba4e88f827d"])
    model: str = Field(examples=["efficientnet-lite0-int8"])
    image: ImageFacts
    predictions: list[PredictionOut] = Field(description="Most probable first")
    timings_ms: ClassifyTimings


class CompareTimings(BaseModel):
    """Milliseconds of what is done once for all models, and of the whole comparison."""

    queue: float
    decode: float
    total: float


class ModelTimings(BaseModel):
    """Median milliseconds of each stage over the measured runs."""

    preprocess: float
    inference: float
    postprocess: float


class InferenceLatency(BaseModel):
    """Inference times of the measured runs, in milliseconds; `null` where too few runs stand behind."""

    count: int
    min: float
    p50: float
    p90: float | None = Field(description=f"null below {MIN_SAMPLES[0.90]} runs")
    p95: float | None = Field(description=f"null below {MIN_SAMPLES[0.95]} runs")


class ComparedOut(BaseModel):
    """One model's answer, cost and size."""

    model: str
    predictions: list[PredictionOut]
    timings_ms: ModelTimings
    latency_ms: InferenceLatency
    speedup: float = Field(description="The baseline's p50 of inference over this model's")
    parameters: int
    macs: int = Field(description="Multiply-accumulates of one image")
    file_bytes: int
    accuracy: Accuracy | None


class AgreementOut(BaseModel):
    """Who names what."""

    top1: float = Field(
        description="Share of the models that name the most common top-1 label", examples=[1.0]
    )
    labels: dict[str, list[str]] = Field(description="Top-1 label to the models that name it")


class CompareResponse(BaseModel):
    """The image through every model, side by side."""

    request_id: str
    image: ImageFacts
    timings_ms: CompareTimings
    results: list[ComparedOut]
    baseline: str
    agreement: AgreementOut
    fastest: str | None = Field(description="Least p50 of inference; null below 5 runs")
    order: list[list[str]] = Field(description="Order of the models in each measured round")


Model = Annotated[str | None, Query(description="A model's name; by default the service's default model")]
TopK = Annotated[
    int | None,
    Query(description="How many classes, 1 to a model's number of them; by default 5, or all if fewer"),
]


def inference_router(
    registry: Registry, classifier: Classifier, comparer: Comparer, bounds: Bounds
) -> APIRouter:
    """Return the routes that classify an image with one model and with several."""
    router = new_router("inference")
    form = [Depends(form_first(bounds))]

    @router.post(
        "/classify",
        summary="Classify an image",
        response_model=ClassifyResponse,
        responses=documented(*IMAGE_ERRORS, errors.UnknownModel),
        openapi_extra=OPENAPI_BODY,
        dependencies=form,
    )
    async def classify(request: Request, model: Model = None, top_k: TopK = None) -> Response:
        """Classify the posted image with one model.

        The image is decoded at the scale that the model needs, its EXIF orientation applied.
        """
        deadline = deadline_for(request, bounds)
        served = find_model(request, registry, model)
        (count,) = class_counts(top_k, served)
        data = await read_image(request, bounds, deadline)
        result = await classifier.classify(data, served, count, deadline)
        return timed_answer(_classification(request, result), result.durations)

    @router.post(
        "/compare",
        summary="Compare models",
        response_model=CompareResponse,
        responses=documented(*IMAGE_ERRORS, errors.UnknownModel, errors.Busy),
        openapi_extra=OPENAPI_BODY,
        dependencies=form,
    )
    async def compare(
        request: Request,
        models: Annotated[
            str | None,
            Query(
                description="Names, separated by commas; by default all with the default model's label set"
            ),
        ] = None,
        top_k: TopK = None,
        repeat: Annotated[int, Query(description="Measured runs of each model, 1 to 50")] = 1,
        baseline: Annotated[str | None, Query(description="The model that `speedup` refers to")] = None,
        mix_labels: Annotated[bool, Query(description="Compare models of different label sets")] = False,
    ) -> Response:
        """Run the posted image through several models, alone on the cores, in rotating order.

        It is decoded once; each model runs once unrecorded and then `repeat` times. One comparison runs at a
        time and takes at most the service's budget of seconds.
        """
        deadline = deadline_for(request, bounds)
        names = None if models is None else comma_list(models)
        plan = comparer.plan(names, baseline, mix_labels=mix_labels, top_k=top_k, repeat=repeat)
        data = await read_image(request, bounds, deadline)
        result = await comparer.run(plan, data, deadline)
        return timed_answer(_comparison(request, result), result.durations)

    return router


def _classification(request: Request, result: Classification) -> dict[str, Any]:
    return {
        "request_id": request.state.request_id,
        "model": result.model,
        "image": image_facts(result.image),
        "predictions": _predictions(result.predictions),
        "timings_ms": timings(result.durations),
    }


def _comparison(request: Request, result: Comparison) -> dict[str, Any]:
    return {
        "request_id": request.state.request_id,
        "image": image_facts(result.image),
        "timings_ms": timings(result.durations),
        "results": [_compared(compared) for compared in result.results],
        "baseline": result.baseline,
        "agreement": {"top1": round(result.agreement.top1, 4), "labels": result.agreement.labels},
        "fastest": result.fastest,
        "order": result.order,
    }


def _compared(result: ComparedModel) -> dict[str, Any]:
    card, latency = result.model.card, result.latency
    return {
        "model": card.name,
        "predictions": _predictions(result.predictions),
        "timings_ms": timings(result.durations),
        "latency_ms": {
            "count": latency.count,
            "min": milliseconds(latency.min_ns),
            "p50": milliseconds(latency.p50_ns),
            "p90": None if latency.p90_ns is None else milliseconds(latency.p90_ns),
            "p95": None if latency.p95_ns is None else milliseconds(latency.p95_ns),
        },
        "speedup": round(result.speedup, 3),
        "parameters": card.parameters,
        "macs": card.macs,
        "file_bytes": card.file.bytes,
        "accuracy": None if card.accuracy is None else card.accuracy.model_dump(mode="json"),
    }


def _predictions(predictions: tuple[Prediction, ...]) -> list[dict[str, Any]]:
    return [
        {"class_id": one.class_id, "label": one.label, "probability": round(one.probability, 6)}
        for one in predictions
    ]
