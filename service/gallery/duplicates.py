"""Perceptual hash of a picture, and when two images are duplicates: equal bytes, or nearly equal pictures."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.zoo.preprocess import Box

_SIDE = 32
_LOW = 8
_FLAT_LEVELS = 2.0
"""Standard deviation, in grey levels of 255, up to which a picture is flat: encoding adds as much."""
_LUMA = np.array([0.299, 0.587, 0.114])

Duplicate = Literal["exact", "near"]

NEAR_HASH_BITS = 6
"""Most bits of 64 in which the perceptual hashes of near duplicates differ."""

NEAR_COSINE = 0.85
"""The least cosine of their embeddings."""


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


def duplicate(sha256: tuple[str, str], perceptual_hash: tuple[int, int], cosine: float) -> Duplicate | None:
    """Return what two images are to each other, by their SHA-256 and perceptual hashes and their cosine.

    Both the picture's coarse shape and what the network sees must agree for "near": different pictures of one
    kind have near embeddings, plain ones near hashes (docs/retrieval.md measures both mistakes). The
    hashes must also share more bits than they differ in: plain shapes have few, flat pictures none.
    """
    if sha256[0] == sha256[1]:
        return "exact"
    differing, common = differing_bits(*perceptual_hash), common_bits(*perceptual_hash)
    alike = differing <= NEAR_HASH_BITS and common > 0 and common >= differing
    return "near" if alike and cosine >= NEAR_COSINE else None
