"""What the answers to posted images share: how long they may take, and what is told of image and times."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Request, Response

from service.inference.decoding.decode import DecodedImage
from service.latency.stages import Durations, milliseconds


def root_of(request: Request) -> str:
    """What stands before the service's paths in public addresses; empty unless a proxy adds a prefix."""
    return str(request.scope.get("root_path", ""))


def timed_answer(body: dict[str, Any], durations: Durations) -> Response:
    """The body as JSON, with its times in the header Server-Timing too."""
    timing = ", ".join(f"{stage};dur={nanoseconds / 1e6:.3f}" for stage, nanoseconds in durations.items())
    return Response(orjson.dumps(body), headers={"Server-Timing": timing}, media_type="application/json")


def image_facts(image: DecodedImage) -> dict[str, Any]:
    """What was posted."""
    return {"width": image.width, "height": image.height, "format": image.format, "bytes": image.bytes}


def timings(durations: Durations) -> dict[str, float]:
    """Milliseconds of each stage."""
    return {stage: milliseconds(nanoseconds) for stage, nanoseconds in durations.items()}
