"""Presets of tools that publish networks, and the most common values for facts that no source states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.zoo.card import Fitting, Interpolation
from service.errors import RefusedModel
from service.own_models.facts import Facts, Rank, words
from service.own_models.sources.beside import Beside

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Mean and deviation of ImageNet's pixels, red, green and blue, in pixel values 0 to 255."""
SIDE = 224
"""Assumed height and width in pixels, if the file leaves them open and no source states them."""
_FREE = "the file leaves it free; most common"
_RAW = ((0.0,) * 3, (1.0,) * 3)
_TO_ONE = ((0.0,) * 3, (255.0,) * 3)
_SIGNED = ((127.5,) * 3, (127.5,) * 3)


@dataclass(frozen=True)
class Preset:
    """How one tool prepares an image.

    `resize_of`: numerator and denominator of a ratio: the length to which the image's shorter side is resized
    before the crop, divided by the longer side of the network's input. It is used only if the fitting is
    "center-crop".
    `pad_value`: value of the border, 0 to 255, if the fitting is "letterbox". `fitting_of_detectors`: how the
    tool prepares an image for a detector; None if the tool has no single way.
    """

    title: str
    fitting: Fitting
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    colour_order: str = "rgb"
    resize_of: tuple[int, int] = (1, 1)
    pad_value: int = 114
    fitting_of_detectors: Fitting | None = None

    def values(self, height: int, width: int, channels: int, *, detector: bool) -> dict[str, Any]:
        """Return the facts of the card by path, for an input of this size."""
        values: dict[str, Any] = {
            "input.interpolation": self.interpolation,
            "input.mean": self.mean if channels == 3 else (sum(self.mean) / 3,),
            "input.std": self.std if channels == 3 else (sum(self.std) / 3,),
        }
        if channels == 3:
            values["input.colour_order"] = self.colour_order
        fitting = self.fitting_of_detectors if detector else self.fitting
        if fitting is not None:
            values["input.fitting"] = fitting
        if fitting == "center-crop":
            values["input.resize"] = self.resize(height, width)
        elif fitting == "letterbox":
            values["input.pad_value"] = self.pad_value
        return values

    def resize(self, height: int, width: int) -> int:
        """Return the length of an image's shorter side before the crop, for an input of this size."""
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
    "ultralytics": Preset(
        "Ultralytics' networks",
        "center-crop", "bilinear", *_TO_ONE, fitting_of_detectors="letterbox",
    ),
    "raw": Preset("pixel values 0 to 255 as they are", "stretch", "bilinear", *_RAW),
}  # fmt: skip
"""All presets, by the names that the option `--preset` takes."""


def preset(name: str) -> Preset:
    """Return the preset with this name. Raises RefusedModel if there is no such preset."""
    if name not in PRESETS:
        raise RefusedModel(f"--preset '{name}': unknown (allowed: {', '.join(PRESETS)})")
    return PRESETS[name]


def from_tensorflow(producer: str) -> bool:
    """Return whether the tool that wrote the file converts networks of TensorFlow or Keras."""
    return re.search("keras|tensorflow|tf2onnx|jax2onnx", producer, re.IGNORECASE) is not None


def assume_size(facts: Facts) -> None:
    """Add assumed values of channels, height and width to the facts, for those that no source states."""
    facts.state("input.channels", 3, Rank.ASSUMED, _FREE)
    for side in ("height", "width"):
        facts.state(f"input.{side}", SIDE, Rank.ASSUMED, _FREE)


def assume_input(facts: Facts, producer: str) -> None:
    """Add the most common preprocessing to the facts as an assumption, for facts that no source states.

    The input's size must be known.
    """
    height, width, channels = (facts.value(f"input.{side}") for side in ("height", "width", "channels"))
    mean, std, why = _pixels(channels, facts.value("input.layout"), producer)
    facts.state("input.mean", mean, Rank.ASSUMED, why)
    facts.state("input.std", std, Rank.ASSUMED, why)
    if height == width:
        facts.state("input.fitting", "center-crop", Rank.ASSUMED, "most common")
    else:
        facts.state("input.fitting", "stretch", Rank.ASSUMED, "most common of inputs that are not square")
    resize = max(height, width) * 8 // 7
    facts.state("input.resize", resize, Rank.ASSUMED, "8/7 of the side, as 256 for 224; most common")
    facts.state("input.interpolation", "bilinear", Rank.ASSUMED, "most common")
    facts.state("input.pad_value", 114, Rank.ASSUMED, "most common")
    facts.state("input.colour_order", "rgb", Rank.ASSUMED, "most common")
    facts.state("input.polarity", "as-is", Rank.ASSUMED, "nothing is known of the training images")


def fit_channels(facts: Facts, channels: int) -> None:
    """Repeat a mean or deviation once per channel, if one number was stated for all channels."""
    for path in ("input.mean", "input.std"):
        claims = facts.claims.get(path, [])
        for index, claim in enumerate(claims):
            values = tuple(claim.value)
            if len(values) != channels and len(set(values)) == 1:
                claims[index] = type(claim)(values[:1] * channels, claim.rank, claim.detail)


def scale_resize(facts: Facts, beside: Beside) -> None:
    """If metadata states a resize, scale it to the size of the network's input.

    This is needed only if metadata states the resize for an input of another size.
    """
    sides = [facts.value(f"input.{side}") for side in ("height", "width")]
    stated = beside.values.get("input.resize")
    stated_for = [beside.values.get(f"input.{side}", (None, ""))[0] for side in ("height", "width")]
    if stated is None or None in stated_for or stated_for == sides:
        return
    claims = facts.claims["input.resize"]
    claims[:] = [claim for claim in claims if claim.rank is not Rank.METADATA]
    where = f"{stated[1]} has {stated[0]} for {words(stated_for)}, scaled to {words(sides)}"
    facts.state("input.resize", round(stated[0] * max(sides) / max(stated_for)), Rank.METADATA, where)
    beside.doubts["input.resize"] = where


def _pixels(channels: int, layout: str, producer: str) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    if channels == 1:
        return (0.0,), (255.0,), "0 to 1, most common of grey images"
    if layout == "nhwc" or from_tensorflow(producer):
        return (127.5,) * 3, (127.5,) * 3, "-1 to 1, most common of networks from TensorFlow"
    return IMAGENET_MEAN, IMAGENET_STD, "ImageNet's, most common of networks from PyTorch"
