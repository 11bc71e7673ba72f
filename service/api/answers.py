"""Shared parts of responses to posted images: image facts and timings, in the body and in Server-Timing."""

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
    format: str = Field(description="Format, detected from the file signature", examples=["jpeg"])
    bytes: int = Field(examples=[34213])


class ClassifyTimings(BaseModel):
    """Milliseconds per stage; `total` is their sum, from the complete body to the finished response."""

    queue: float = Field(description="Waiting for a core", examples=[0.041])
    decode: float = Field(description="Bytes to RGB pixels", examples=[0.652])
    preprocess: float = Field(description="Resize, crop, normalise", examples=[0.114])
    inference: float = Field(description="Run of the network", examples=[1.874])
    postprocess: float = Field(description="Softmax and labels", examples=[0.031])
    total: float = Field(examples=[2.712])


def root_of(request: Request) -> str:
    """Return the URL prefix that a proxy adds; empty without one."""
    return str(request.scope.get("root_path", ""))


def timed_answer(body: dict[str, Any], durations: Durations) -> Response:
    """Return `body` as a JSON response with `durations` in the Server-Timing header."""
    timing = ", ".join(f"{stage};dur={nanoseconds / 1e6:.3f}" for stage, nanoseconds in durations.items())
    return Response(orjson.dumps(body), headers={"Server-Timing": timing}, media_type="application/json")


def image_facts(image: DecodedImage) -> dict[str, Any]:
    """Return the JSON object of an `ImageFacts`."""
    return {"width": image.width, "height": image.height, "format": image.format, "bytes": image.bytes}


def timings(durations: Durations) -> dict[str, float]:
    """Return the milliseconds per stage."""
    return {stage: milliseconds(nanoseconds) for stage, nanoseconds in durations.items()}
