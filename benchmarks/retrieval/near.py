"""Evaluate thresholds, for hash bits and cosine, that separate edited copies from other images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.retrieval.corpus import FashionMnist
from benchmarks.retrieval.edited import EDITS, Features
from service.gallery.duplicates import NEAR_COSINE, NEAR_HASH_BITS, perceptual_hash

RULES = tuple((bits, cosine) for bits in (4, 6, 8, 10, 12, 16) for cosine in (0.75, 0.85, 0.9, 0.95))
GARMENTS = 20_000
QUERIES = 2_000
CHUNK = 250


@dataclass(frozen=True)
class RuleResult:
    """What the rule "at most `bits` differing hash bits and a cosine of at least `cosine`" marks as near.

    `copies`: number of edited copies that are near their original, by edit. `others`: number of near pairs
    among `other_pairs` pairs of a copy and another image. `garments`: number of near pairs among
    `garment_pairs` pairs of a test and a training image of Fashion-MNIST. `garments_asked`: share of these
    test images that have at least one near training image.
    """

    bits: int
    cosine: float
    copies: dict[str, int]
    others: int
    other_pairs: int
    garments: int
    garment_pairs: int
    garments_asked: float

    @property
    def chosen(self) -> bool:
        """Whether this is the rule that the service uses."""
        return (self.bits, self.cosine) == (NEAR_HASH_BITS, NEAR_COSINE)


def evaluate_rules(
    originals: Features, copies: dict[str, Features], model: str, garments: NDArray[np.float32]
) -> list[dict[str, object]]:
    """Evaluate all rules. `garments`: embeddings of Fashion-MNIST's images by `model`, float32 (N, D)."""
    own = originals.embeddings[model]
    cosines = {edit: copies[edit].embeddings[model] @ own.T for edit in EDITS}
    bits = {edit: _differing(copies[edit].hashes, originals.hashes) for edit in EDITS}
    same = np.eye(len(own), dtype=bool)
    pairs = dict.fromkeys(RULES, 0)
    with_near = dict.fromkeys(RULES, 0)
    for garment_cosines, garment_bits in _garments(garments):
        for rule in RULES:
            near = _near(rule, garment_bits, garment_cosines)
            pairs[rule] += int(near.sum())
            with_near[rule] += int(near.any(axis=1).sum())
    results = []
    for rule in RULES:
        near = {edit: _near(rule, bits[edit], cosines[edit]) for edit in EDITS}
        results.append(
            asdict(
                RuleResult(
                    *rule,
                    copies={edit: int(matrix[same].sum()) for edit, matrix in near.items()},
                    others=sum(int(matrix[~same].sum()) for matrix in near.values()),
                    other_pairs=len(EDITS) * int((~same).sum()),
                    garments=pairs[rule],
                    garment_pairs=QUERIES * GARMENTS,
                    garments_asked=with_near[rule] / QUERIES,
                )
            )
        )
    return results


def _garments(embeddings: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Yield, in chunks, cosines and differing bits between QUERIES test and GARMENTS training images."""
    data = FashionMnist()
    gallery = np.array(embeddings[:GARMENTS])
    gallery_hashes = _hashes(data.pixels[:GARMENTS])
    query_hashes = _hashes(data.pixels[data.train : data.train + QUERIES])
    for start in range(0, QUERIES, CHUNK):
        queries = embeddings[data.train + start : data.train + start + CHUNK]
        yield queries @ gallery.T, _differing(query_hashes[start : start + CHUNK], gallery_hashes)


def _hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    grey = (np.repeat(image[..., None], 3, axis=2) for image in images)
    return np.array([perceptual_hash(image, (0, 0, 28, 28)) for image in grey], np.uint64)


def _near(
    rule: tuple[int, float], bits: NDArray[np.uint8], cosines: NDArray[np.float32]
) -> NDArray[np.bool_]:
    return (bits <= rule[0]) & (cosines >= rule[1])


def _differing(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return, as (N, M), the number of bits that differ between each of `first` (N,) and of `second` (M,)."""
    return np.bitwise_count(first[:, None] ^ second[None, :])


def rule_rows(results: Sequence[dict[str, object]]) -> list[RuleResult]:
    """Convert recorded results to objects."""
    return [RuleResult(**result) for result in results]  # type: ignore[arg-type]
