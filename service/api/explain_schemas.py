"""What POST /explain answers when it is asked for numbers."""

from __future__ import annotations

from pydantic import BaseModel, Field

from service.api.schemas import ClassifyTimings, ImageFacts


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
