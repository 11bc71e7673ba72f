"""Which thresholds of hash and cosine tell edited copies from other pictures, and what they get wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.retrieval.corpus import FashionMnist
from benchmarks.retrieval.edited import EDITS, Looks
from service.gallery.duplicates import NEAR_COSINE, NEAR_HASH_BITS, perceptual_hash

RULES = tuple((bits, cosine) for bits in (4, 6, 8, 10, 12, 16) for cosine in (0.75, 0.85, 0.9, 0.95))
GARMENTS = 20_000
ASKED = 2_000
CHUNK = 250


@dataclass(frozen=True)
class Judged:
    """What the rule of at most `bits` differing and at least `cosine` calls near.

    `copies`: how many of each edit's copies; `others`: pairs of a copy and another picture, of `other_pairs`;
    `garments`: pairs of a test and a training image of Fashion-MNIST, of `garment_pairs`; `garments_asked`:
    the share of these test images that have any.
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
        """Whether this is the service's rule."""
        return (self.bits, self.cosine) == (NEAR_HASH_BITS, NEAR_COSINE)


def judged(
    originals: Looks, copies: dict[str, Looks], model: str, garments: NDArray[np.float32]
) -> list[dict[str, object]]:
    """Every rule on the same pictures. `garments`: Fashion-MNIST's embeddings by `model`, float32 (N, D)."""
    own = originals.embeddings[model]
    cosines = {edit: copies[edit].embeddings[model] @ own.T for edit in EDITS}
    bits = {edit: _differing(copies[edit].hashes, originals.hashes) for edit in EDITS}
    same = np.eye(len(own), dtype=bool)
    pairs = dict.fromkeys(RULES, 0)
    asked = dict.fromkeys(RULES, 0)
    for garment_cosines, garment_bits in _garments(garments):
        for rule in RULES:
            near = _near(rule, garment_bits, garment_cosines)
            pairs[rule] += int(near.sum())
            asked[rule] += int(near.any(axis=1).sum())
    results = []
    for rule in RULES:
        near = {edit: _near(rule, bits[edit], cosines[edit]) for edit in EDITS}
        results.append(
            asdict(
                Judged(
                    *rule,
                    copies={edit: int(each[same].sum()) for edit, each in near.items()},
                    others=sum(int(each[~same].sum()) for each in near.values()),
                    other_pairs=len(EDITS) * int((~same).sum()),
                    garments=pairs[rule],
                    garment_pairs=ASKED * GARMENTS,
                    garments_asked=asked[rule] / ASKED,
                )
            )
        )
    return results


def _garments(embeddings: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Cosines and differing bits of ASKED test images with GARMENTS training images, some at a time."""
    data = FashionMnist()
    kept = np.array(embeddings[:GARMENTS])
    kept_hashes = _hashes(data.pixels[:GARMENTS])
    asked_hashes = _hashes(data.pixels[data.train : data.train + ASKED])
    for start in range(0, ASKED, CHUNK):
        asked = embeddings[data.train + start : data.train + start + CHUNK]
        yield asked @ kept.T, _differing(asked_hashes[start : start + CHUNK], kept_hashes)


def _hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    grey = (np.repeat(image[..., None], 3, axis=2) for image in images)
    return np.array([perceptual_hash(image, (0, 0, 28, 28)) for image in grey], np.uint64)


def _near(
    rule: tuple[int, float], bits: NDArray[np.uint8], cosines: NDArray[np.float32]
) -> NDArray[np.bool_]:
    return (bits <= rule[0]) & (cosines >= rule[1])


def _differing(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Bits in which each of `one` (N,) differs from each of `other` (M,), (N, M)."""
    return np.bitwise_count(one[:, None] ^ other[None, :])


def rule_rows(results: Sequence[dict[str, object]]) -> list[Judged]:
    """Results that were kept, as they were judged."""
    return [Judged(**each) for each in results]  # type: ignore[arg-type]
