"""POST /detect: the objects in an image, with their boxes and scores."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import BaseModel, Field

from models.zoo.detection import MAX_CANDIDATES
from models.zoo.display import comma_list
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
from service.api.middleware.context import find_model
from service.api.problems import documented
from service.api.routers import new_router
from service.inference.detect import Detected, Detector, detect_plan
from service.inference.runtimes.base import RuntimeName

router = new_router("inference", route_class=ImageRoute)


class BoxOut(BaseModel):
    """Edges of a box in pixels of the image as displayed (EXIF orientation applied), within the image."""

    left: float = Field(examples=[75.5])
    top: float = Field(examples=[12.25])
    right: float = Field(examples=[375.5])
    bottom: float = Field(examples=[299.0])


class PointOut(BaseModel):
    """A landmark, in pixels of the image; it may lie outside the image."""

    x: float = Field(examples=[101.5])
    y: float = Field(examples=[64.0])


class DetectionOut(BaseModel):
    """An object that was found."""

    class_id: int = Field(examples=[0])
    label: str = Field(examples=["Person"])
    score: float = Field(description="0 to 1; comparable only within one model", examples=[0.59])
    box: BoxOut
    landmarks: list[PointOut] = Field(description="Empty for models without landmarks")


class DetectStages(BaseModel):
    """Milliseconds per stage on a core; `total` is the time from the image's bytes to the boxes."""

    decode: float = Field(description="Bytes to RGB pixels", examples=[0.652])
    preprocess: float = Field(description="Resize, pad, normalise", examples=[0.214])
    inference: float = Field(description="Run of the network", examples=[11.874])
    postprocess: float = Field(description="Outputs to boxes in the image", examples=[0.131])
    nms: float = Field(description="Non-maximum suppression and labels", examples=[0.081])
    total: float = Field(examples=[12.993])


class DetectTimings(DetectStages):
    """Milliseconds per stage.

    `total` is the sum of the stages: the time from the complete body to the finished response.
    """

    queue: float = Field(description="Waiting for a core", examples=[0.041])


class DetectResponse(BaseModel):
    """Objects that one model finds."""

    request_id: str = Field(examples=["7f9c2ba4e88f827d"])
    model: str = Field(examples=["ssd-mobilenet-v2"])
    runtime: RuntimeName = RUNTIME
    precision: str = PRECISION
    image: ImageFacts
    detections: list[DetectionOut] = Field(description="Best score first; empty if nothing was found")
    timings_ms: DetectTimings


MinScore = Annotated[
    float | None,
    Query(
        description="Lowest score to report, 0 to 1; by default the value in the model's card",
        json_schema_extra={"minimum": 0, "maximum": 1},
    ),
]
MaxDetections = Annotated[
    int | None,
    Query(
        description="Maximum number of objects to report, 1 to `candidates` of the model's card; by default "
        "the value in the card",
        json_schema_extra={"minimum": 1, "maximum": MAX_CANDIDATES},
    ),
]


@router.post(
    "/detect",
    summary="Detect objects",
    response_model=DetectResponse,
    responses=documented(*IMAGE_ERRORS, errors.UnknownModel, errors.OtherTask),
    openapi_extra=OPENAPI_BODY,
)
async def detect(
    request: Request,
    model: Annotated[
        str | None, Query(description="Model name; by default the service's default detector")
    ] = None,
    min_score: MinScore = None,
    max_detections: MaxDetections = None,
    classes: Annotated[
        str | None,
        Query(
            description="Labels or class ids to report, separated by commas; by default all. A label "
            "that several classes share stands for all of them"
        ),
    ] = None,
) -> Response:
    """Find objects in the posted image with one detector.

    A large JPEG is decoded at a reduced size that suffices for the model. Boxes are in pixels of the full
    image.
    """
    deadline = deadline_for(request)
    served = find_model(request, model, "object-detection")
    names = None if classes is None else comma_list(classes)
    plan = detect_plan(served, min_score, max_detections, names)
    data = await read_image(request, deadline)
    result = await app_part(request, Detector).detect(data, plan, deadline)
    return timed_answer(_detected(request, result), result.durations)


def _detected(request: Request, result: Detected) -> dict[str, Any]:
    return {
        "request_id": request.state.request_id,
        "model": result.model,
        "runtime": result.runtime,
        "precision": result.precision,
        "image": image_facts(result.image),
        "detections": [found.as_json() for found in result.objects],
        "timings_ms": timings(result.durations),
    }
