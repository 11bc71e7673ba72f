"""A class activation map as a picture: warm where the image speaks for the class, cold where against."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.zoo.preprocess import Box
from service.inference.decoding.decode import DecodedImage

LONGEST_SIDE = 1024
"""Pixels of the longer side that a picture is scaled down to before the map is laid over it."""

_FOR = np.array((216, 34, 20), np.uint8)
_AGAINST = np.array((26, 82, 214), np.uint8)
_STRONGEST = 0.8


def heatmap_png(values: NDArray[np.float64], region: Box, image: DecodedImage, *, over_image: bool) -> bytes:
    """`values` (H, W) over the part `region` of the image, in the image's own pixels, as a PNG.

    Colours are opaque in proportion to the value, relative to the largest absolute one. `over_image`: laid
    over the image, RGB; else alone, RGBA, transparent beside the region. Both have the image's proportions.
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
    inside = (max(1, right - left), max(1, bottom - top))
    largest = float(np.abs(values).max()) or 1.0
    coarse = Image.fromarray((values / largest).astype(np.float32))
    smooth = np.clip(np.asarray(coarse.resize(inside, Image.Resampling.BICUBIC)), -1, 1)
    colours = np.empty((*smooth.shape, 4), np.uint8)
    colours[..., :3] = np.where(smooth[..., None] > 0, _FOR, _AGAINST)
    colours[..., 3] = np.round(np.abs(smooth) * (255 * _STRONGEST))
    layer = Image.new("RGBA", size)
    layer.paste(Image.fromarray(colours), (left, top))
    return layer
