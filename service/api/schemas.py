"""What the inference endpoints answer, field for field; times in milliseconds with microsecond resolution."""

from __future__ import annotations

from pydantic import BaseModel, Field

from models.zoo.card import Accuracy, Activation, Card

CAT = {"class_id": 281, "label": "tabby", "probability": 0.31}


class ImageFacts(BaseModel):
    """The posted image, as displayed (EXIF orientation applied)."""

    width: int = Field(description="Pixels", examples=[451])
    height: int = Field(description="Pixels", examples=[300])
    format: str = Field(description="What its bytes say it is", examples=["jpeg"])
    bytes: int = Field(examples=[34213])


class PredictionOut(BaseModel):
    """One class."""

    class_id: int = Field(examples=[281])
    label: str = Field(examples=["tabby"])
    probability: float = Field(
        description="Softmax over all classes, or the network's own where it ends in softmax or sigmoid",
        examples=[0.31],
    )


class ClassifyTimings(BaseModel):
    """Milliseconds of each stage; `total` is their sum, from the complete body to the finished answer."""

    queue: float = Field(description="Waiting for a core", examples=[0.041])
    decode: float = Field(description="Bytes to RGB pixels", examples=[0.652])
    preprocess: float = Field(description="Resize, crop, normalise", examples=[0.114])
    inference: float = Field(description="The network", examples=[1.874])
    postprocess: float = Field(description="Softmax and labels", examples=[0.031])
    total: float = Field(examples=[2.712])


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
    p90: float | None = Field(description="null below 64 runs")
    p95: float | None = Field(description="null below 130 runs")


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


class ModelOut(BaseModel):
    """A model of the zoo."""

    name: str
    loaded: bool
    reason: str | None = Field(description="Why it is not loaded, or why its latest run failed")
    activation: Activation | None = Field(
        description="What the network applies to its logits itself, as its card says or its file shows: then "
        "no softmax is applied here; null where it is not loaded"
    )
    card: Card | None = Field(description="null where the card itself is not valid")


class ModelsResponse(BaseModel):
    """All models of the zoo, the broken ones too."""

    models: list[ModelOut]
