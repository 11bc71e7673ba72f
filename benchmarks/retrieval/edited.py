"""Search for the originals of cropped, recompressed, resized, flipped and darkened photographs.

200 images that do not overlap are cropped from large photographs. Each image is edited in five ways. Then the
original of each edited copy is searched for, with the service's own decoding and embedding. near.py uses the
same embeddings and perceptual hashes to evaluate thresholds for near duplicates.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from benchmarks.retrieval.corpus import photographs, read_photograph
from service.gallery.embed import embedder_of, prepare
from service.inference.loading import ServedModel

PICTURES = 200
COLUMNS, ROWS = 3, 2
READ_AT = 1600
"""Shorter side, in pixels, of a photograph before it is cropped. A crop's side is then about 800 pixels."""
MAX_PIXELS = 10**8

EDITS: dict[str, Callable[[Image.Image], bytes]] = {
    "cropped to 80 %": lambda image: _jpeg(image.crop(_centre(image, 0.8))),
    "JPEG quality 30": lambda image: _jpeg(image, 30),
    "resized to half": lambda image: _jpeg(image.resize((image.width // 2, image.height // 2))),
    "flipped": lambda image: _jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "darkened to 60 %": lambda image: _jpeg(ImageEnhance.Brightness(image).enhance(0.6)),
}


@dataclass(frozen=True)
class Features:
    """Features of N images: embeddings by model, float32 (N, D), and perceptual hashes, uint64 (N,)."""

    embeddings: dict[str, NDArray[np.float32]]
    hashes: NDArray[np.uint64]


def pictures() -> list[bytes]:
    """Return the originals as JPEGs of quality 90.

    Each photograph is cut into the cells of a grid. Of all these cells, PICTURES are chosen at random.
    """
    pieces = []
    for path in photographs():
        image = Image.fromarray(read_photograph(path, READ_AT))
        width, height = image.width // COLUMNS, image.height // ROWS
        for number in range(COLUMNS * ROWS):
            left, top = number % COLUMNS * width, number // COLUMNS * height
            pieces.append(_jpeg(image.crop((left, top, left + width, top + height))))
    chosen = np.random.default_rng(0).permutation(len(pieces))[:PICTURES]
    return [pieces[number] for number in sorted(chosen)]


def edited(originals: Sequence[bytes]) -> dict[str, list[bytes]]:
    """Return the edited copies of all originals, by the name of the edit."""
    images = [Image.open(io.BytesIO(original)) for original in originals]
    return {name: [edit(image) for image in images] for name, edit in EDITS.items()}


def features(images: Sequence[bytes], models: Sequence[ServedModel]) -> Features:
    """Return the features that the gallery would store for these images."""
    prepared = [prepare(image, models, max_pixels=MAX_PIXELS) for image in images]
    return Features(
        {
            model.name: np.stack([image.embeddings[embedder_of(model)] for image in prepared])
            for model in models
        },
        np.array([image.perceptual_hash for image in prepared], np.uint64),
    )


def found_first(copies: NDArray[np.float32], originals: NDArray[np.float32]) -> int:
    """Return the number of copies, float32 (N, D), whose nearest original is their own."""
    return int((np.argmax(copies @ originals.T, axis=1) == np.arange(len(copies))).sum())


def _centre(image: Image.Image, share: float) -> tuple[int, int, int, int]:
    left, top = round(image.width * (1 - share) / 2), round(image.height * (1 - share) / 2)
    return left, top, image.width - left, image.height - top


def _jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
