"""Render a class activation map as PNG: red where it raises the logit, blue where it lowers it."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.zoo.preprocess import Box
from service.inference.decoding.decode import DecodedImage

LONGEST_SIDE = 1024
"""Maximum pixels of the longer side of a rendered map."""

_RAISES = np.array((216, 34, 20), np.uint8)
_LOWERS = np.array((26, 82, 214), np.uint8)
_MAX_OPACITY = 0.8


def heatmap_png(values: NDArray[np.float64], region: Box, image: DecodedImage, *, over_image: bool) -> bytes:
    """Render `values`, float64 (H, W), as PNG with the image's aspect ratio.

    `region`: the part of the image that `values` cover, in pixels. Opacity is proportional to the absolute
    value, relative to the largest one. With `over_image` the PNG is RGB and shows the map over the image.
    Otherwise it is RGBA and transparent outside the region.
    """
    shrink = min(1.0, LONGEST_SIDE / max(image.width, image.height), image.pixels.shape[0] / image.height)
    size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
    layer = _layer(values, region, size, (size[0] / image.width, size[1] / image.height))
    if over_image:
        picture = Image.fromarray(image.pixels).resize(size, Image.Resampling.BILINEAR, box=image.box)
        picture = Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")
    else:
        picture = layer
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _layer(
    values: NDArray[np.float64], region: Box, size: tuple[int, int], scale: tuple[float, float]
) -> Image.Image:
    left, right = round(region[0] * scale[0]), round(region[2] * scale[0])
    top, bottom = round(region[1] * scale[1]), round(region[3] * scale[1])
    layer_size = (max(1, right - left), max(1, bottom - top))
    largest = float(np.abs(values).max()) or 1.0
    coarse = Image.fromarray((values / largest).astype(np.float32))
    smooth = np.clip(np.asarray(coarse.resize(layer_size, Image.Resampling.BICUBIC)), -1, 1)
    colours = np.empty((*smooth.shape, 4), np.uint8)
    colours[..., :3] = np.where(smooth[..., None] > 0, _RAISES, _LOWERS)
    colours[..., 3] = np.round(np.abs(smooth) * (255 * _MAX_OPACITY))
    layer = Image.new("RGBA", size)
    layer.paste(Image.fromarray(colours), (left, top))
    return layer
