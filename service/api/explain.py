"""POST /explain: the class activation map of an image, as a picture or as numbers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, Field

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
from service.api.inference import Model
from service.api.middleware.context import find_model
from service.api.problems import documented
from service.api.routers import new_router
from service.inference.explain import Explainer, Explanation
from service.inference.registry import Registry


class RegionOut(BaseModel):
    """The part of the image that the map covers, which is what the network saw, in the image's pixels."""

    left: float = Field(examples=[75.5])
    top: float = Field(examples=[0.0])
    right: float = Field(examples=[375.5])
    bottom: float = Field(examples=[300.0])


class ExplainResponse(BaseModel):
    """One class of one model, explained by where in the image its logit comes from."""

    request_id: str = Field(examples=["7f9c2ba4e88f827d"])
    model: str = Field(examples=["efficientnet-lite0-int8"])
    image: ImageFacts
    class_id: int = Field(examples=[281])
    label: str = Field(examples=["tabby"])
    logit: float = Field(description="As the network gave it", examples=[9.1234])
    bias: float = Field(description="What the class has without any image", examples=[-0.0071])
    region: RegionOut
    map: list[list[float]] = Field(
        description="Rows from top to bottom; the mean of all values plus `bias` is `logit`",
        examples=[[[7.5, 11.25], [8.0, 9.75]]],
    )
    timings_ms: ClassifyTimings


PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}


def explain_router(registry: Registry, explainer: Explainer, bounds: Bounds) -> APIRouter:
    """Return the route that explains a classification."""
    router = new_router("inference")
    form = [Depends(form_first(bounds))]

    @router.post(
        "/explain",
        summary="Explain a classification",
        response_model=ExplainResponse,
        responses={
            200: {"description": "The map as a picture, or as numbers", "content": PNG},
            **documented(*IMAGE_ERRORS, errors.UnknownModel, errors.NoExactMap),
        },
        openapi_extra=OPENAPI_BODY,
        dependencies=form,
    )
    async def explain(
        request: Request,
        model: Model = None,
        class_id: Annotated[
            int | None, Query(description="A class of the model; by default the one it names")
        ] = None,
        over_image: Annotated[
            bool, Query(description="Whether the picture shows the image below the map, or the map alone")
        ] = True,
        accept: Annotated[
            str, Header(description="`application/json` for the numbers; else a PNG is sent")
        ] = "image/png",
    ) -> Response:
        """The class activation map: what each place of the last feature map adds to the class's logit.

        It is exact, not an estimate: its mean plus the bias is the logit that the network gave, for networks
        that end in average pooling and one linear layer. Others get 409.
        """
        deadline = deadline_for(request, bounds)
        served = find_model(request, registry, model)
        plan = explainer.plan(served, class_id)
        data = await read_image(request, bounds, deadline)
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

    return router


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
