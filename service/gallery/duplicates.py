"""When an image is said to be another one's duplicate: the same bytes, or nearly the same picture."""

from __future__ import annotations

from typing import Literal

from service.gallery.perceptual_hash import common_bits, differing_bits

Duplicate = Literal["exact", "near"]

NEAR_HASH_BITS = 6
"""Most bits of 64 in which the perceptual hashes of near duplicates differ."""

NEAR_COSINE = 0.85
"""The least cosine of their embeddings."""


def duplicate(sha256: tuple[str, str], perceptual_hash: tuple[int, int], cosine: float) -> Duplicate | None:
    """What two images are to each other, by their SHA-256 and perceptual hashes and their cosine.

    Both the picture's coarse shape and what the network sees must agree for "near": different pictures of one
    kind have near embeddings, plain ones near hashes (docs/retrieval.md measures both mistakes). The
    hashes must also share more bits than they differ in: plain shapes have few, flat pictures none.
    """
    if sha256[0] == sha256[1]:
        return "exact"
    differing, common = differing_bits(*perceptual_hash), common_bits(*perceptual_hash)
    alike = differing <= NEAR_HASH_BITS and common > 0 and common >= differing
    return "near" if alike and cosine >= NEAR_COSINE else None
