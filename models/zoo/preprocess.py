"""Image preprocessing, shared by training, calibration, evaluation and serving."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.zoo.card import InputSpec, Interpolation

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in a grey value (ITU-R BT.601)."""

CORNER = 9
"""Number that determines the size of the corners by which it is decided whether to invert an image.

A corner is a square whose side is the shorter side of the crop divided by this number.
"""

_SUPPORT: dict[Interpolation, float] = {
    "nearest": 0.5, "box": 0.5, "bilinear": 1, "hamming": 1, "bicubic": 2, "lanczos": 3
}  # fmt: skip
"""How far each filter reaches from its centre.

The unit is a pixel of the image before or after resizing, whichever has the larger pixels.
"""
_FILTERS = {name: Image.Resampling[name.upper()] for name in _SUPPORT}


def shorter_side(*specs: InputSpec) -> int:
    """Return how many pixels the shorter side of an image must have at least for all `specs`.

    A decoder may scale the image down to this size, but no further.
    """
    return max(spec.resize for spec in specs)


Box = tuple[float, float, float, float]
"""Left, top, right and bottom of an image region, in fractional pixels."""


def preprocess(
    pixels: NDArray[np.uint8],
    spec: InputSpec,
    out: NDArray[np.float32] | None = None,
    *,
    box: Box | None = None,
) -> NDArray[np.float32]:
    """Fit and normalise one image as `spec` says; return float32 (1, channels, height, width).

    Afterwards, `graph_input` converts the result to the layout and dtype of the graph's input.

    `pixels` is uint8 RGB (H, W, 3), of any size from 1 x 1. `box` is the region of `pixels` that the image
    covers, by default all of it. For example, a JPEG of 1001 columns that is decoded at 1/8 has 126 columns,
    of which the image covers 125.125. The result is written to `out` if given (float32, the result's shape),
    so that callers can reuse memory.

    Raises ValueError if `pixels` or `out` has another shape or dtype, or `box` exceeds `pixels`.
    """
    return normalise(fit(pixels, spec, box=box), spec, out)


def fit(pixels: NDArray[np.uint8], spec: InputSpec, *, box: Box | None = None) -> NDArray[np.uint8]:
    """Fit one image as `spec` says; return uint8 RGB (height, width, 3), perhaps a view of `pixels`.

    `pixels` is uint8 RGB (H, W, 3), and `box` is the region of `pixels` that the image covers, by default all
    of it. Raises ValueError if `pixels` has another shape or dtype, or `box` exceeds `pixels`.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; uint8 (H, W, 3) is needed")
    if box is None:
        box = (0, 0, pixels.shape[1], pixels.shape[0])
    elif not (0 <= box[0] < box[2] <= pixels.shape[1] and 0 <= box[1] < box[3] <= pixels.shape[0]):
        raise ValueError(f"box {box} does not lie within {pixels.shape[1]} x {pixels.shape[0]} pixels")
    if spec.fitting == "center-crop":
        return _resized_centre(pixels, spec, box)
    if spec.fitting == "stretch":
        return _resized(pixels, spec, box, (spec.width, spec.height))
    return _padded(pixels, spec, box)


def normalise(
    region: NDArray[np.uint8], spec: InputSpec, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Normalise the result of `fit` as `spec` says; return float32 (1, channels, height, width).

    The result is written to `out` if this is given (float32, the result's shape). Raises ValueError if `out`
    has another shape or dtype.
    """
    shape = (1, spec.channels, spec.height, spec.width)
    if out is None:
        out = np.empty(shape, dtype=np.float32)
    elif out.dtype != np.float32 or out.shape != shape:
        raise ValueError(f"out is {out.dtype} {out.shape}; float32 {shape} is needed")
    if spec.channels == 3:
        if spec.colour_order == "bgr":
            region = region[..., ::-1]
        out[0] = region.transpose(2, 0, 1)
    else:
        np.matmul(region, _LUMA, out=out[0, 0])
        if spec.polarity == "light-on-dark" and _has_light_ground(out[0, 0]):
            np.subtract(255, out[0, 0], out=out[0, 0])
    std = np.array(spec.std, dtype=np.float64)
    # (value - mean) / std, in place, in two passes over cached memory.
    out[0] *= (1 / std).astype(np.float32)[:, None, None]
    out[0] -= (np.array(spec.mean) / std).astype(np.float32)[:, None, None]
    return out


def value_range(spec: InputSpec) -> tuple[float, float]:
    """Return the least and the greatest number that `normalise` can make from pixels of 0 to 255."""
    ends = [(pixel - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True) for pixel in (0, 255)]
    return min(ends), max(ends)


def graph_input(images: NDArray[np.float32], spec: InputSpec) -> NDArray[Any]:
    """Return images (N, channels, height, width) in the layout and dtype of the graph's input."""
    moved = images.transpose(0, 2, 3, 1) if spec.layout == "nhwc" else images
    if spec.dtype == "uint8":
        moved = np.rint(moved)  # a cast would truncate grey values, which are fractions
    return np.ascontiguousarray(moved, dtype=spec.dtype)


def _has_light_ground(grey: NDArray[np.float32]) -> bool:
    """Return whether over half of the pixels in the corners of `grey` (H, W), 0 to 255, exceed 127.5.

    Objects often touch the edges of an image but rarely its corners.
    """
    side = max(1, min(grey.shape) // CORNER)
    bands = np.concatenate((grey[:side], grey[-side:]))
    light = np.count_nonzero(bands[:, :side] > 127.5) + np.count_nonzero(bands[:, -side:] > 127.5)
    return bool(light > 2 * side * side)


def crop_box(spec: InputSpec, box: Box) -> Box:
    """Return the region of an image that the network sees, in the pixels in which `box` is given.

    `box` is the region that the image covers. Where borders are added, the result exceeds `box`.
    """
    if spec.fitting == "stretch":
        return box
    if spec.fitting != "center-crop":
        offset, size = _place(spec, box)
        across, down = (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]
        start = (box[0] - offset[0] * across, box[1] - offset[1] * down)
        return (*start, start[0] + spec.width * across, start[1] + spec.height * down)
    if spec.crop_rounding == "exact":
        scale = min(box[2] - box[0], box[3] - box[1]) / spec.resize
        left = (box[0] + box[2] - spec.width * scale) / 2
        top = (box[1] + box[3] - spec.height * scale) / 2
        if scale == 1:  # cut out, not resized: the crop begins at a whole pixel
            left, top = math.floor(left), math.floor(top)
        return (left, top, left + spec.width * scale, top + spec.height * scale)
    (across, down), (column, row) = _resized_size(spec, box), _crop_offset(spec, box)
    wide, high = (box[2] - box[0]) / across, (box[3] - box[1]) / down
    left, top = box[0] + column * wide, box[1] + row * high
    return (left, top, left + spec.width * wide, top + spec.height * high)


def _resized_size(spec: InputSpec, box: Box) -> tuple[int, int]:
    """Return the size (width, height) to which an image is resized before the crop.

    The longer side is rounded down, as in torchvision, timm and transformers.
    """
    across, down = box[2] - box[0], box[3] - box[1]
    if across <= down:
        return spec.resize, int(spec.resize * down / across)
    return int(spec.resize * across / down), spec.resize


def _crop_offset(spec: InputSpec, box: Box) -> tuple[int, int]:
    """Return where the crop begins, (left, top), in pixels of the resized image.

    Half pixels are rounded to even, as in torchvision and timm; transformers rounds them down.
    """
    across, down = _resized_size(spec, box)
    return round((across - spec.width) / 2), round((down - spec.height) / 2)


def _resized_centre(pixels: NDArray[np.uint8], spec: InputSpec, box: Box) -> NDArray[np.uint8]:
    """Return the centre crop of the resized image, uint8 (spec.height, spec.width, 3).

    Only the part of the image that the crop shows is resized, not the whole image.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = crop_box(spec, box)
    if spec.crop_rounding == "exact":
        scale = min(box[2] - box[0], box[3] - box[1]) / spec.resize
        is_resized = scale == 1
    else:
        scale = max((right - left) / spec.width, (bottom - top) / spec.height)
        is_resized = _resized_size(spec, box) == (box[2] - box[0], box[3] - box[1])
    if is_resized:
        row, column = math.floor(top), math.floor(left)
        return pixels[row : row + spec.height, column : column + spec.width]

    # Pass Pillow only the region and the pixels around it that the filter reads.
    margin = math.ceil(_SUPPORT[spec.interpolation] * max(scale, 1)) + 1
    first_row, last_row = max(0, math.floor(top) - margin), min(height, math.ceil(bottom) + margin)
    first_column, last_column = max(0, math.floor(left) - margin), min(width, math.ceil(right) + margin)
    window = np.ascontiguousarray(pixels[first_row:last_row, first_column:last_column])
    region = (
        max(0.0, left - first_column),
        max(0.0, top - first_row),
        min(float(window.shape[1]), right - first_column),
        min(float(window.shape[0]), bottom - first_row),
    )
    resized = Image.fromarray(window).resize(
        (spec.width, spec.height), _FILTERS[spec.interpolation], box=region
    )
    return np.asarray(resized)


def _resized(
    pixels: NDArray[np.uint8], spec: InputSpec, box: Box, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the region `box` of `pixels`, resized to `size` (width, height), as uint8 (height, width, 3)."""
    if size == (pixels.shape[1], pixels.shape[0]) and box == (0, 0, *size):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, _FILTERS[spec.interpolation], box=box))


def _place(spec: InputSpec, box: Box) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return position (left, top) and size (width, height) of a resized image in the network's input."""
    across, down = box[2] - box[0], box[3] - box[1]
    scale = min(spec.width / across, spec.height / down)
    size = (
        min(spec.width, max(1, round(across * scale))),
        min(spec.height, max(1, round(down * scale))),
    )
    if spec.fitting == "pad":
        return (0, 0), size
    return ((spec.width - size[0]) // 2, (spec.height - size[1]) // 2), size


def _padded(pixels: NDArray[np.uint8], spec: InputSpec, box: Box) -> NDArray[np.uint8]:
    """Return the whole image with borders of `spec.pad_value`, uint8 (spec.height, spec.width, 3)."""
    (left, top), size = _place(spec, box)
    region = np.full((spec.height, spec.width, 3), spec.pad_value, np.uint8)
    region[top : top + size[1], left : left + size[0]] = _resized(pixels, spec, box, size)
    return region
