"""Common image corruptions at five severities, reproducible, for small and large images."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Scale:
    """Strength of each corruption at severities 1 to 5.

    `noise` is the standard deviation of Gaussian noise, as a share of full brightness. `blur` is the standard
    deviation of the Gaussian in pixels. `contrast` is the factor by which each value's distance from the
    image's mean is multiplied. `brightness` is added to the HSV value, as a share of full brightness. `jpeg`
    is the quality of the JPEG.
    """

    noise: tuple[float, float, float, float, float]
    blur: tuple[float, float, float, float, float]
    contrast: tuple[float, float, float, float, float]
    brightness: tuple[float, float, float, float, float]
    jpeg: tuple[int, int, int, int, int]


# Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
# https://arxiv.org/abs/1903.12261, defined the corruptions; the code is ours. LARGE has the authors'
# constants for ImageNet-C. SMALL has their constants for the 32 x 32 images of CIFAR-10-C, which suit 28 x 28
# images too. All constants were compared with github.com/hendrycks/robustness: gaussian_noise, gaussian_blur,
# contrast, brightness and jpeg_compression in imagenet_c/corruptions.py (LARGE) and in
# create_c/make_cifar_c.py (SMALL).
LARGE = Scale(
    noise=(0.08, 0.12, 0.18, 0.26, 0.38),
    blur=(1, 2, 3, 4, 6),
    contrast=(0.4, 0.3, 0.2, 0.1, 0.05),
    brightness=(0.1, 0.2, 0.3, 0.4, 0.5),
    jpeg=(25, 18, 15, 10, 7),
)
SMALL = Scale(
    noise=(0.04, 0.06, 0.08, 0.09, 0.10),
    blur=(0.4, 0.6, 0.7, 0.8, 1.0),
    contrast=(0.75, 0.5, 0.4, 0.3, 0.15),
    brightness=(0.05, 0.1, 0.15, 0.2, 0.3),
    jpeg=(80, 65, 58, 50, 40),
)


def corrupt(
    pixels: NDArray[np.uint8], corruption: str, severity: int, scale: Scale, seed: int = 0
) -> NDArray[np.uint8]:
    """Return a corrupted copy of one uint8 image, grey (H, W) or RGB (H, W, 3).

    `seed` and the severity determine the noise.

    Raises ValueError for an unknown corruption or severity.
    """
    if corruption not in CORRUPTIONS:
        raise ValueError(f"corruption {corruption!r}: unknown (allowed: {', '.join(CORRUPTIONS)})")
    if severity not in SEVERITIES:
        raise ValueError(f"severity: {severity} (allowed: 1 to 5)")
    strength = getattr(scale, corruption)[severity - 1]
    return CORRUPTIONS[corruption](pixels, strength, np.random.default_rng([seed, severity]))


def _noise(pixels: NDArray[np.uint8], strength: float, random: np.random.Generator) -> NDArray[np.uint8]:
    return _as_pixels(pixels + random.normal(0, 255 * strength, pixels.shape))


def _blur(pixels: NDArray[np.uint8], strength: float, _random: np.random.Generator) -> NDArray[np.uint8]:
    """Blur an image with a Gaussian that ends at four standard deviations. Edge pixels are repeated."""
    radius = max(1, round(4 * strength))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / strength) ** 2)
    kernel /= kernel.sum()
    result = pixels.astype(np.float64)
    for axis in (0, 1):
        length = result.shape[axis]
        border = [(radius, radius) if axis == dimension else (0, 0) for dimension in range(result.ndim)]
        padded = np.pad(result, border, mode="edge")
        result = sum(
            weight * padded.take(range(start, start + length), axis) for start, weight in enumerate(kernel)
        )
    return _as_pixels(result)


def _contrast(pixels: NDArray[np.uint8], strength: float, _random: np.random.Generator) -> NDArray[np.uint8]:
    mean = pixels.mean((0, 1), keepdims=True)
    return _as_pixels((pixels - mean) * strength + mean)


def _brightness(
    pixels: NDArray[np.uint8], strength: float, _random: np.random.Generator
) -> NDArray[np.uint8]:
    """Increase the HSV value, a pixel's largest channel, and scale the other channels by the same factor."""
    value = pixels.max(2, keepdims=True).astype(np.float64) if pixels.ndim == 3 else pixels.astype(np.float64)
    brighter = np.minimum(value + 255 * strength, 255)
    # Black has no hue to keep and becomes grey.
    hue = np.divide(pixels, value, out=np.ones(pixels.shape), where=np.broadcast_to(value > 0, pixels.shape))
    return _as_pixels(hue * brighter)


def _jpeg(pixels: NDArray[np.uint8], strength: float, _random: np.random.Generator) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(strength))
    with Image.open(buffer) as image:
        return np.asarray(image)


def _as_pixels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    # Truncated, not rounded, as in the reference code.
    return np.clip(values, 0, 255).astype(np.uint8)


CORRUPTIONS: dict[str, Callable[[NDArray[np.uint8], float, np.random.Generator], NDArray[np.uint8]]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "jpeg": _jpeg,
}
