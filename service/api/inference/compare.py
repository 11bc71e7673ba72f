"""POST /compare: predictions, latency and size of several models on one image."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import BaseModel, Field

from models.zoo.card import Accuracy
from models.zoo.display import comma_list
from models.zoo.statistics import MIN_SAMPLES
from service import errors
from service.api.body.image import (
    IMAGE_ERRORS,
    OPENAPI_BODY,
    PRECISION,
    RUNTIME,
    ImageFacts,
    ImageRoute,
    image_facts,
    read_image,
    timed_answer,
    timings,
)
from service.api.body.request import app_part, deadline_for
from service.api.inference.classify import PredictionOut, TopK, predictions_out
from service.api.inference.detect import BoxOut, DetectionOut, MinScore
from service.api.problems import documented
from service.api.routers import new_router
from service.inference.compare import ComparedModel, Comparer, Comparison, ObjectFound
from service.inference.detect import box_json
from service.inference.runtimes.base import RuntimeName
from service.latency.stages import milliseconds

router = new_router("inference", route_class=ImageRoute)


class CompareTimings(BaseModel):
    """Milliseconds of the stages that run once for all models, and of the whole comparison."""

    queue: float
    decode: float
    total: float


class ModelTimings(BaseModel):
    """Median milliseconds per stage over the measured runs."""

    preprocess: float
    inference: float
    postprocess: float
    nms: float | None = Field(default=None, description="Only for detectors")


class InferenceLatency(BaseModel):
    """Inference times of the measured runs in milliseconds; p90 and p95 need a minimum number of runs."""

    count: int
    min: float
    p50: float
    p90: float | None = Field(description=f"null below {MIN_SAMPLES[0.90]} runs")
    p95: float | None = Field(description=f"null below {MIN_SAMPLES[0.95]} runs")


class ComparedOut(BaseModel):
    """Predictions, latency and size of one model."""

    model: str
    runtime: RuntimeName = RUNTIME
    precision: str = PRECISION
    predictions: list[PredictionOut] = Field(description="Empty for a detector")
    detections: list[DetectionOut] | None = Field(
        default=None, description="Objects that a detector found, best score first; left out for a classifier"
    )
    timings_ms: ModelTimings
    latency_ms: InferenceLatency
    speedup: float = Field(description="The baseline's p50 of inference divided by this model's")
    parameters: int
    macs: int = Field(description="Multiply-accumulate operations per image")
    file_bytes: int
    accuracy: Accuracy | None


class AgreementOut(BaseModel):
    """Agreement of the models on the top-1 label."""

    top1: float = Field(
        description="Share of the models that predict the most common top-1 label", examples=[1.0]
    )
    labels: dict[str, list[str]] = Field(description="For each top-1 label, the models that predict it")


class ObjectOut(BaseModel):
    """An object that at least one detector found; boxes match if their intersection over union is >= 0.5."""

    label: str = Field(description="Label of the detection with the highest score", examples=["Person"])
    box: BoxOut = Field(description="Box of that detection")
    found_by: dict[str, int] = Field(
        description="For each model that found the object, the index of its box in the model's `detections`"
    )
    iou: float | None = Field(
        description="Lowest intersection over union of `box` and another model's box; null if there is none"
    )


class ComparisonOut(BaseModel):
    """Results of all models on one image, without the id of the request, which CompareResponse adds."""

    image: ImageFacts
    timings_ms: CompareTimings
    results: list[ComparedOut]
    baseline: str
    agreement: AgreementOut | None = Field(description="Only of the classifiers; null if only detectors ran")
    objects: list[ObjectOut] | None = Field(
        default=None, description="Found by detectors, highest score first; left out if only classifiers ran"
    )
    fastest: str | None = Field(description="Model with the lowest p50 of inference; null below 5 runs")
    order: list[list[str]] = Field(description="Order of the models in each measured round")


class CompareResponse(ComparisonOut):
    """Results of all models on one image."""

    request_id: str


@router.post(
    "/compare",
    summary="Compare models",
    response_model=CompareResponse,
    responses=documented(*IMAGE_ERRORS, errors.UnknownModel, errors.Busy),
    openapi_extra=OPENAPI_BODY,
)
async def compare(
    request: Request,
    models: Annotated[
        str | None,
        Query(description="Names, separated by commas; by default all of the default model's label set"),
    ] = None,
    top_k: TopK = None,
    repeat: Annotated[int, Query(description="Measured runs per model, 1 to 50")] = 1,
    baseline: Annotated[
        str | None, Query(description="Model that `speedup` refers to; by default the default model")
    ] = None,
    mix_labels: Annotated[bool, Query(description="Allow models of different label sets")] = False,
    mix_tasks: Annotated[bool, Query(description="Allow classifiers beside detectors")] = False,
    min_score: MinScore = None,
) -> Response:
    """Compare several models on the posted image: predictions, latency and speed-up.

    The image is decoded once. Each model runs once as warm-up, then `repeat` times in rotating order. No
    other job uses the cores during a run. One comparison runs at a time, within the service's time budget.
    """
    comparer = app_part(request, Comparer)
    deadline = deadline_for(request)
    names = None if models is None else comma_list(models)
    plan = comparer.plan(
        names,
        baseline,
        mix_labels=mix_labels,
        mix_tasks=mix_tasks,
        top_k=top_k,
        min_score=min_score,
        repeat=repeat,
    )
    data = await read_image(request, deadline)
    result = await comparer.run(plan, data, deadline)
    answer = {"request_id": request.state.request_id, **comparison_out(result)}
    return timed_answer(answer, result.durations)


def comparison_out(result: Comparison) -> dict[str, Any]:
    """Return a comparison as the JSON object that `ComparisonOut` describes."""
    agreement = result.agreement
    answer = {
        "image": image_facts(result.image),
        "timings_ms": timings(result.durations),
        "results": [_compared(compared) for compared in result.results],
        "baseline": result.baseline,
        "agreement": None
        if agreement is None
        else {"top1": round(agreement.top1, 4), "labels": agreement.labels},
        "fastest": result.fastest,
        "order": result.order,
    }
    if result.objects is not None:
        answer["objects"] = [_object(found) for found in result.objects]
    return answer


def _object(found: ObjectFound) -> dict[str, Any]:
    return {
        "label": found.best.label,
        "box": box_json(found.best.box),
        "found_by": found.found_by,
        "iou": None if found.iou is None else round(found.iou, 4),
    }


def _compared(result: ComparedModel) -> dict[str, Any]:
    card, latency = result.model.card, result.latency
    detections = None if result.objects is None else [found.as_json() for found in result.objects]
    return {
        "model": card.name,
        "runtime": result.model.predictor.runtime,
        "precision": result.model.predictor.precision,
        "predictions": predictions_out(result.predictions or ()),
        **({} if detections is None else {"detections": detections}),
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
