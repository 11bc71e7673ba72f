"""64 bits of what an image looks like: few of them change when it is recompressed, resized or darkened."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.zoo.preprocess import Box

_SIDE = 32
_LOW = 8
_FLAT_LEVELS = 2.0
"""Standard deviation, in grey levels of 255, up to which a picture is flat: encoding adds as much."""
_LUMA = np.array([0.299, 0.587, 0.114])


def perceptual_hash(pixels: NDArray[np.uint8], box: Box) -> int:
    """The hash of the picture that fills `box` of `pixels`, uint8 RGB (H, W, 3), whatever its size.

    The picture is made a grey square of 32 x 32 pixels; each bit says whether one of the 8 x 8 lowest
    frequencies of its cosine transform is above their median. The lowest of all, the mean, tells nothing. A
    flat picture has no shape: its hash is 0.
    """
    small = Image.fromarray(pixels).resize(
        (_SIDE, _SIDE), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0
    )
    grey = np.asarray(small, dtype=np.float64) @ _LUMA
    if grey.std() < _FLAT_LEVELS:
        return 0
    cosines = _cosines()
    frequencies = (cosines @ grey @ cosines.T).ravel()[1:]
    # Where a picture is symmetric, they are noise of rounding, which must not decide.
    frequencies[np.abs(frequencies) < 1e-6] = 0
    bits = np.packbits(frequencies > np.median(frequencies))
    return int.from_bytes(bits.tobytes(), "big")


def differing_bits(one: int, other: int) -> int:
    """How many of the 64 bits differ."""
    return (one ^ other).bit_count()


def common_bits(one: int, other: int) -> int:
    """How many of the 64 bits are set in both: about 31 for pictures that look the same, 0 for flat ones."""
    return (one & other).bit_count()


@functools.cache
def _cosines() -> NDArray[np.float64]:
    """The lowest rows of the discrete cosine transform, (8, 32)."""
    frequency, place = np.arange(_LOW)[:, None], np.arange(_SIDE)[None, :]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE))
