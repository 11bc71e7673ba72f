"""POST /explain: the class activation map of an image, as PNG or as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Query, Request, Response
from pydantic import BaseModel, Field

from service import errors
from service.api.body.image import (
    IMAGE_ERRORS,
    OPENAPI_BODY,
    ClassifyTimings,
    ImageFacts,
    ImageRoute,
    image_facts,
    read_image,
    timed_answer,
    timings,
)
from service.api.body.request import app_part, deadline_for
from service.api.inference.classify import Model
from service.api.middleware.context import find_model
from service.api.problems import documented
from service.api.routers import new_router
from service.inference.explain import Explainer, Explanation

router = new_router("inference", route_class=ImageRoute)


class RegionOut(BaseModel):
    """Region of the image that the network sees and the map covers, in pixels of the image."""

    left: float = Field(examples=[75.5])
    top: float = Field(examples=[0.0])
    right: float = Field(examples=[375.5])
    bottom: float = Field(examples=[300.0])


class ExplainResponse(BaseModel):
    """Class activation map of one class: how much each place in the image adds to the logit."""

    request_id: str = Field(examples=["7f9c2ba4e88f827d"])
    model: str = Field(examples=["efficientnet-lite0-int8"])
    image: ImageFacts
    class_id: int = Field(examples=[281])
    label: str = Field(examples=["tabby"])
    logit: float = Field(description="Logit of the class, computed by the network", examples=[9.1234])
    bias: float = Field(description="Bias of the class in the last layer", examples=[-0.0071])
    region: RegionOut
    map: list[list[float]] = Field(
        description="Rows, top to bottom; the mean of all values plus `bias` equals `logit`",
        examples=[[[7.5, 11.25], [8.0, 9.75]]],
    )
    timings_ms: ClassifyTimings


PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}


@router.post(
    "/explain",
    summary="Explain a classification",
    response_model=ExplainResponse,
    responses={
        200: {"description": "The map as JSON or PNG", "content": PNG},
        **documented(*IMAGE_ERRORS, errors.UnknownModel, errors.OtherTask, errors.NoExactMap),
    },
    openapi_extra=OPENAPI_BODY,
)
async def explain(
    request: Request,
    model: Model = None,
    class_id: Annotated[
        int | None, Query(description="Class to explain; by default the most probable one")
    ] = None,
    over_image: Annotated[
        bool, Query(description="If true, draw the map over the image; if false, return only the map")
    ] = True,
    accept: Annotated[
        str, Header(description="`application/json` for numbers, anything else for a PNG")
    ] = "image/png",
) -> Response:
    """Return the class activation map: how much each place of the last feature map adds to the logit.

    The map is exact: its mean plus the bias equals the logit. The network must end in global
    average pooling and one linear layer; for other networks, the answer is 409.
    """
    explainer = app_part(request, Explainer)
    deadline = deadline_for(request)
    served = find_model(request, model)
    plan = explainer.plan(served, class_id)
    data = await read_image(request, deadline)
    as_json = "application/json" in accept.lower()
    explanation = await explainer.run(plan, data, deadline, picture=not as_json, over_image=over_image)
    answer = timed_answer(_numbers(request, explanation), explanation.durations)
    if explanation.png is not None:
        name = f"{explanation.model}-{explanation.class_id}.png"
        headers = {
            "Content-Disposition": f'inline; filename="{name}"',
            "Server-Timing": answer.headers["Server-Timing"],
        }
        answer = Response(explanation.png, headers=headers, media_type="image/png")
    answer.headers["Vary"] = "Accept"
    return answer


def _numbers(request: Request, explanation: Explanation) -> dict[str, Any]:
    left, top, right, bottom = (round(edge, 2) for edge in explanation.region)
    return {
        "request_id": request.state.request_id,
        "model": explanation.model,
        "image": image_facts(explanation.image),
        "class_id": explanation.class_id,
        "label": explanation.label,
        "logit": explanation.logit,
        "bias": explanation.bias,
        "region": {"left": left, "top": top, "right": right, "bottom": bottom},
        "map": explanation.values.tolist(),
        "timings_ms": timings(explanation.durations),
    }
