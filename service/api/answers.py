"""What responses to posted images share: facts of the image and timings, in the body and the header."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, Field

from service.inference.decoding.decode import DecodedImage
from service.latency.stages import Durations, milliseconds


class ImageFacts(BaseModel):
    """The posted image, as displayed (EXIF orientation applied)."""

    width: int = Field(description="Pixels", examples=[451])
    height: int = Field(description="Pixels", examples=[300])
    format: str = Field(description="What its bytes say it is", examples=["jpeg"])
    bytes: int = Field(examples=[34213])


class ClassifyTimings(BaseModel):
    """Milliseconds of each stage; `total` is their sum, from the complete body to the finished answer."""

    queue: float = Field(description="Waiting for a core", examples=[0.041])
    decode: float = Field(description="Bytes to RGB pixels", examples=[0.652])
    preprocess: float = Field(description="Resize, crop, normalise", examples=[0.114])
    inference: float = Field(description="The network", examples=[1.874])
    postprocess: float = Field(description="Softmax and labels", examples=[0.031])
    total: float = Field(examples=[2.712])


def root_of(request: Request) -> str:
    """Return the prefix of public addresses; empty unless a proxy adds one."""
    return str(request.scope.get("root_path", ""))


def timed_answer(body: dict[str, Any], durations: Durations) -> Response:
    """Return the body as JSON, with `durations` in the header Server-Timing."""
    timing = ", ".join(f"{stage};dur={nanoseconds / 1e6:.3f}" for stage, nanoseconds in durations.items())
    return Response(orjson.dumps(body), headers={"Server-Timing": timing}, media_type="application/json")


def image_facts(image: DecodedImage) -> dict[str, Any]:
    """Return an `ImageFacts` as JSON has it."""
    return {"width": image.width, "height": image.height, "format": image.format, "bytes": image.bytes}


def timings(durations: Durations) -> dict[str, float]:
    """Return the milliseconds of each stage."""
    return {stage: milliseconds(nanoseconds) for stage, nanoseconds in durations.items()}
