"""Presets: how the tools that publish networks prepare an image, where nothing else says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.zoo.card import Fitting, Interpolation
from service.errors import RefusedModel

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Mean and deviation of ImageNet's pixels, red, green and blue, in pixel values 0 to 255."""
_RAW = ((0.0,) * 3, (1.0,) * 3)
_TO_ONE = ((0.0,) * 3, (255.0,) * 3)
_SIGNED = ((127.5,) * 3, (127.5,) * 3)


@dataclass(frozen=True)
class Preset:
    """How one tool prepares an image.

    `resize_of`: the shorter side before the crop, in sides of the network's input; for center-crop only.
    """

    title: str
    fitting: Fitting
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    colour_order: str = "rgb"
    resize_of: tuple[int, int] = (1, 1)

    def values(self, height: int, width: int, channels: int) -> dict[str, Any]:
        """Return the facts of the card for an input of this size, by path."""
        values: dict[str, Any] = {
            "input.fitting": self.fitting,
            "input.interpolation": self.interpolation,
            "input.mean": self.mean if channels == 3 else (sum(self.mean) / 3,),
            "input.std": self.std if channels == 3 else (sum(self.std) / 3,),
        }
        if channels == 3:
            values["input.colour_order"] = self.colour_order
        if self.fitting == "center-crop":
            values["input.resize"] = self.resize(height, width)
        return values

    def resize(self, height: int, width: int) -> int:
        """Return the shorter side before the crop, in pixels."""
        return max(height, width) * self.resize_of[0] // self.resize_of[1]


PRESETS: Mapping[str, Preset] = {
    "torchvision": Preset(
        "torchvision's ImageClassification with resize 256, crop 224",
        "center-crop", "bilinear", IMAGENET_MEAN, IMAGENET_STD, resize_of=(256, 224),
    ),
    "timm": Preset(
        "timm's defaults: crop_pct 0.875, bicubic",
        "center-crop", "bicubic", IMAGENET_MEAN, IMAGENET_STD, resize_of=(8, 7),
    ),
    "hf": Preset("Hugging Face's ViTImageProcessor", "stretch", "bilinear", *_SIGNED),
    "keras": Preset(
        "Keras networks that rescale inside: EfficientNet, MobileNetV3, ConvNeXt", "stretch", "nearest", *_RAW
    ),
    "keras-tf": Preset(
        "Keras's preprocess_input in mode tf: MobileNet, MobileNetV2, Inception, Xception, NASNet",
        "stretch", "nearest", *_SIGNED,
    ),
    "keras-torch": Preset(
        "Keras's preprocess_input in mode torch: DenseNet", "stretch", "nearest", IMAGENET_MEAN, IMAGENET_STD
    ),
    "keras-caffe": Preset(
        "Keras's preprocess_input in mode caffe: ResNet50, VGG",
        "stretch", "nearest", (103.939, 116.779, 123.68), (1.0,) * 3, colour_order="bgr",
    ),
    "tensorflow": Preset("TensorFlow Hub's image modules: 0 to 1", "stretch", "bilinear", *_TO_ONE),
    "ultralytics": Preset("Ultralytics' classify networks", "center-crop", "bilinear", *_TO_ONE),
    "raw": Preset("pixel values 0 to 255 as they are", "stretch", "bilinear", *_RAW),
}  # fmt: skip
"""Each preset by the name that `--preset` takes."""


def preset(name: str) -> Preset:
    """Return a preset by name. Raises RefusedModel for an unknown one."""
    if name not in PRESETS:
        raise RefusedModel(f"--preset '{name}': unknown (allowed: {', '.join(PRESETS)})")
    return PRESETS[name]
