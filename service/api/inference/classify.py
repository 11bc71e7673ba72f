"""POST /classify: the most probable classes of an image, with their probabilities."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import BaseModel, Field

from service import errors
from service.api.body.image import (
    IMAGE_ERRORS,
    OPENAPI_BODY,
    PRECISION,
    RUNTIME,
    ClassifyTimings,
    ImageFacts,
    ImageRoute,
    image_facts,
    read_image,
    timed_answer,
    timings,
)
from service.api.body.request import app_part, deadline_for
from service.api.middleware.context import find_model
from service.api.problems import documented
from service.api.routers import new_router
from service.inference.classify import Classification, Classifier, Prediction, class_counts
from service.inference.runtimes.base import RuntimeName

router = new_router("inference", route_class=ImageRoute)


class PredictionOut(BaseModel):
    """A class and its probability."""

    class_id: int = Field(examples=[281])
    label: str = Field(examples=["tabby"])
    probability: float = Field(
        description="Softmax over all classes; for networks that end in softmax or sigmoid, their output",
        examples=[0.31],
    )


class ClassifyResponse(BaseModel):
    """Predictions of one model."""

    request_id: str = Field(examples=["7f9c2ba4e88f827d"])
    model: str = Field(examples=["efficientnet-lite0-int8"])
    runtime: RuntimeName = RUNTIME
    precision: str = PRECISION
    image: ImageFacts
    predictions: list[PredictionOut] = Field(description="Most probable first")
    timings_ms: ClassifyTimings


Model = Annotated[str | None, Query(description="Model name; by default the service's default model")]
TopK = Annotated[
    int | None,
    Query(
        description="Number of classes to return, 1 to all; by default 5, or all if the model has fewer",
        json_schema_extra={"minimum": 1},
    ),
]


@router.post(
    "/classify",
    summary="Classify an image",
    response_model=ClassifyResponse,
    responses=documented(*IMAGE_ERRORS, errors.UnknownModel, errors.OtherTask),
    openapi_extra=OPENAPI_BODY,
)
async def classify(request: Request, model: Model = None, top_k: TopK = None) -> Response:
    """Classify the posted image with one model.

    The image is decoded at the scale that the model needs; its EXIF orientation is applied.
    """
    deadline = deadline_for(request)
    served = find_model(request, model)
    (count,) = class_counts(top_k, served)
    data = await read_image(request, deadline)
    result = await app_part(request, Classifier).classify(data, served, count, deadline)
    return timed_answer(_classification(request, result), result.durations)


def _classification(request: Request, result: Classification) -> dict[str, Any]:
    return {
        "request_id": request.state.request_id,
        "model": result.model,
        "runtime": result.runtime,
        "precision": result.precision,
        "image": image_facts(result.image),
        "predictions": predictions_out(result.predictions),
        "timings_ms": timings(result.durations),
    }


def predictions_out(predictions: tuple[Prediction, ...]) -> list[dict[str, Any]]:
    """Return the predictions as the JSON objects that `PredictionOut` describes."""
    return [
        {
            "class_id": prediction.class_id,
            "label": prediction.label,
            "probability": round(prediction.probability, 6),
        }
        for prediction in predictions
    ]
