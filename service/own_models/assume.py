"""Facts of the input that nothing states: the most common values, marked as assumed."""

from __future__ import annotations

import re

from service.own_models.facts import Facts, Rank, words
from service.own_models.presets import IMAGENET_MEAN, IMAGENET_STD
from service.own_models.sidecars import Beside

SIDE = 224
"""Height and width where the file leaves them free and nothing states them."""
_FREE = "the file leaves it free; most common"


def from_tensorflow(producer: str) -> bool:
    """Return whether the tool that wrote the file converts networks of TensorFlow or Keras."""
    return re.search("keras|tensorflow|tf2onnx|jax2onnx", producer, re.IGNORECASE) is not None


def assume_size(facts: Facts) -> None:
    """State channels, height and width that nothing states."""
    facts.state("input.channels", 3, Rank.ASSUMED, _FREE)
    for side in ("height", "width"):
        facts.state(f"input.{side}", SIDE, Rank.ASSUMED, _FREE)


def assume_input(facts: Facts, producer: str) -> None:
    """State how an image is fitted and normalised where nothing does. The size is settled."""
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
    """Bring stated means and deviations to the number of channels, where one number stands for all."""
    for path in ("input.mean", "input.std"):
        claims = facts.claims.get(path, [])
        for index, claim in enumerate(claims):
            values = tuple(claim.value)
            if len(values) != channels and len(set(values)) == 1:
                claims[index] = type(claim)(values[:1] * channels, claim.rank, claim.detail)


def scale_resize(facts: Facts, beside: Beside) -> None:
    """Scale a stated resize where the network's size is another than the one that it was stated for."""
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
