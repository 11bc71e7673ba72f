"""Perceptual hashes, and detection of exact and near duplicates."""

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
"""Maximum standard deviation of the grey levels (0 to 255) of a flat picture.

It is above 0 because encoding adds some noise."""
_LUMA = np.array([0.299, 0.587, 0.114])

Duplicate = Literal["exact", "near"]

NEAR_HASH_BITS = 6
"""Maximum Hamming distance of the 64-bit perceptual hashes of near duplicates."""

NEAR_COSINE = 0.85
"""Minimum cosine of the embeddings of near duplicates."""


def perceptual_hash(pixels: NDArray[np.uint8], box: Box) -> int:
    """Return the 64-bit perceptual hash (pHash) of `box` of `pixels`, uint8 RGB (H, W, 3).

    The picture is reduced to 32 x 32 grey pixels, and their discrete cosine transform is computed. The hash
    uses its 8 x 8 lowest frequencies without the first, which is the mean. Each bit says whether one of these
    frequencies is above their median. A flat picture has the hash 0.
    """
    small = Image.fromarray(pixels).resize(
        (_SIDE, _SIDE), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0
    )
    grey = np.asarray(small, dtype=np.float64) @ _LUMA
    if grey.std() < _FLAT_LEVELS:
        return 0
    cosines = _cosines()
    frequencies = (cosines @ grey @ cosines.T).ravel()[1:]
    # In symmetric pictures, frequencies this small are rounding noise, which must not affect the hash.
    frequencies[np.abs(frequencies) < 1e-6] = 0
    bits = np.packbits(frequencies > np.median(frequencies))
    return int.from_bytes(bits.tobytes(), "big")


def differing_bits(one: int, other: int) -> int:
    """Return the Hamming distance of two hashes."""
    return (one ^ other).bit_count()


def common_bits(one: int, other: int) -> int:
    """Return the number of bits set in both hashes: about 31 for equal pictures, 0 for flat ones."""
    return (one & other).bit_count()


@functools.cache
def _cosines() -> NDArray[np.float64]:
    """Return the 8 lowest frequencies of the discrete cosine transform (DCT-II), float64 (8, 32)."""
    frequency, position = np.arange(_LOW)[:, None], np.arange(_SIDE)[None, :]
    return np.cos(np.pi * frequency * (2 * position + 1) / (2 * _SIDE))


def duplicate(sha256: tuple[str, str], perceptual_hash: tuple[int, int], cosine: float) -> Duplicate | None:
    """Return "exact" or "near" if two images are duplicates, or None if they are not.

    They are compared by their SHA-256, their perceptual hashes, and the cosine of their embeddings. "near"
    needs both similar hashes and similar embeddings, because different pictures of one kind have similar
    embeddings, and different plain pictures have similar hashes. docs/retrieval.md has the false positives.

    Similar hashes differ in at most NEAR_HASH_BITS bits. Also, some bits are 1 in both hashes: at least one
    bit, and at least as many as the bits in which the hashes differ. Without this second condition, the
    hashes of plain shapes, in which few bits are set, and of flat pictures, in which none is, would often
    count as similar.
    """
    if sha256[0] == sha256[1]:
        return "exact"
    differing, common = differing_bits(*perceptual_hash), common_bits(*perceptual_hash)
    similar = differing <= NEAR_HASH_BITS and common > 0 and common >= differing
    return "near" if similar and cosine >= NEAR_COSINE else None
