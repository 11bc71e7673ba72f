"""Corrupted versions of a picture, at the size that a network sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.zoo.card import InputSpec
from models.zoo.corruptions import CORRUPTIONS, LARGE, SEVERITIES, SMALL, corrupt
from service.inference.decoding.decode import DecodedImage

_SMALL_SIDE = 64
"""Longest side of an input, in pixels, up to which the corruptions use the constants for small pictures.
These constants are the ones of CIFAR-10-C, whose pictures have 32 pixels."""

VIEW = tuple((corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES)
"""Corruption and severity of each corrupted version, in the order in which `corrupted_views` yields them."""


@dataclass(frozen=True)
class View:
    """The part of a picture that networks see, and its size. The picture is corrupted in this form.

    If `whole`, networks see the whole picture, scaled to a longer side of `side` pixels. Otherwise they see
    its centre square, scaled to `side` pixels. `small`: corrupt with the constants for small pictures.
    """

    side: int
    whole: bool
    small: bool


def view_of(spec: InputSpec) -> View:
    """Return how a network with the input `spec` sees a picture."""
    return View(spec.resize, spec.fitting != "center-crop", max(spec.height, spec.width) <= _SMALL_SIDE)


def corrupted_views(image: DecodedImage, view: View, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Yield each corrupted version of the picture as uint8 RGB (H, W, 3), in the order of VIEW (this module).

    `seed` determines the noise. A grey picture, such as those of Fashion-MNIST, stays grey.
    """
    pixels = _scaled(image, view)
    grey = bool((pixels == pixels[..., :1]).all())
    scale = SMALL if view.small else LARGE
    for corruption, severity in VIEW:
        version = corrupt(pixels[..., 0] if grey else pixels, corruption, severity, scale, seed)
        yield np.repeat(version[..., None], 3, axis=2) if grey else version


def _scaled(image: DecodedImage, view: View) -> NDArray[np.uint8]:
    left, top, right, bottom = image.box
    width, height = right - left, bottom - top
    if view.whole:
        scale = view.side / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
    else:
        shorter = min(width, height)
        left, top = left + (width - shorter) / 2, top + (height - shorter) / 2
        right, bottom = left + shorter, top + shorter
        size = (view.side, view.side)
    if size == (width, height) == image.pixels.shape[1::-1]:
        return image.pixels
    resized = Image.fromarray(image.pixels).resize(
        size, Image.Resampling.BICUBIC, box=(left, top, right, bottom)
    )
    return np.asarray(resized)
