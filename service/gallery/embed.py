"""Compute what the gallery stores of an image: embeddings, perceptual hash, thumbnail."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from models.zoo.card import Card
from service.errors import InvalidParameter, OtherTask
from service.gallery.duplicates import perceptual_hash
from service.gallery.records import NewImage, Vector
from service.inference.decoding.decode import DecodedImage
from service.inference.loading import ServedModel
from service.inference.pipeline import load_image, run_model
from service.latency.stages import Stopwatch

OUTPUT: Literal["embedding"] = "embedding"

THUMBNAIL_SIDE = 256
"""Maximum pixels of a thumbnail's longer side."""

_THUMBNAIL_QUALITY = 82


def embedder_of(model: ServedModel) -> str:
    """Return the id of a model's network (its embedder), as `embedder_of_card` computes it from its card."""
    return embedder_of_card(model.card)


def embedder_of_card(card: Card) -> str:
    """Return the id of the network that a card describes. This id is called the embedder.

    It has at most 77 characters: the model's name and 12 hexadecimal digits, which differ if the embeddings
    differ. For cards of version 1, the digits are the start of the file's SHA-256, because galleries of
    earlier releases have stored these. For cards of version 2, they are the start of a SHA-256 of three
    things: the file's SHA-256, the card's input, and the name of the embedding's output.
    """
    digest = card.file.sha256
    if card.schema_version > 1:
        # Default values are left out, so that fields of later releases do not change embedders.
        spec = card.input.model_dump(mode="json", exclude_defaults=True)
        facts = json.dumps([digest, spec, card.output_name(OUTPUT)], sort_keys=True)
        digest = hashlib.sha256(facts.encode()).hexdigest()
    return f"{card.name}@{digest[:12]}"


def model_name(embedder: str) -> str:
    """Return the model's name, which is part of the id `embedder`."""
    return embedder.rpartition("@")[0]


def dimensions_of(model: ServedModel) -> int:
    """Return the length of the model's embeddings.

    Raises OtherTask for a detector, and InvalidParameter for a classifier without embeddings.
    """
    if model.card.detection is not None:
        raise OtherTask(
            f"model '{model.name}': detects objects, it has no embedding to store or compare images by "
            "(allowed: a classifier with an embedding; use POST /detect to find objects)"
        )
    shape = model.card.outputs.get(OUTPUT)
    if shape is None or len(shape) != 1:
        raise InvalidParameter(f"model '{model.name}': no embedding (its card lists no such output)")
    return shape[0]


def load_for_embedding(
    data: bytes, model: ServedModel, *, max_pixels: int, stopwatch: Stopwatch | None = None
) -> DecodedImage:
    """Decode an image for `model`, at a scale that is also large enough for the thumbnail.

    Stored images and queries are decoded the same way. Ends the lap `decode`. Raises the errors of `decode`.
    """
    return load_image(
        data, model.card.input, max_pixels=max_pixels, min_side=THUMBNAIL_SIDE, stopwatch=stopwatch
    )


def embed(image: DecodedImage, model: ServedModel, stopwatch: Stopwatch | None = None) -> Vector:
    """Return the image's embedding by `model`, scaled to length 1, float32 (dimensions,).

    An embedding of zeros stays unchanged. Ends the laps `preprocess` and `inference`. Raises ModelUnavailable
    if the run fails.
    """
    return normalised(run_model(model, image, (OUTPUT,), stopwatch)[OUTPUT])


def normalised(embedding: NDArray[np.float32]) -> Vector:
    """Return a finite embedding, float32 (D,), scaled to length 1. An embedding of zeros stays unchanged."""
    length = float(np.linalg.norm(embedding.astype(np.float64)))
    return (embedding / max(length, 1e-12)).astype(np.float32)


def prepare(data: bytes, models: Sequence[ServedModel], *, max_pixels: int) -> NewImage:
    """Compute all that the gallery stores of an image, with an embedding by each of `models`.

    Raises the errors of `decode`.
    """
    first = load_for_embedding(data, models[0], max_pixels=max_pixels)
    embeddings = {embedder_of(models[0]): embed(first, models[0])}
    for model in models[1:]:
        image = load_for_embedding(data, model, max_pixels=max_pixels)
        embeddings[embedder_of(model)] = embed(image, model)
    return NewImage(
        content=data,
        sha256=hashlib.sha256(data).hexdigest(),
        format=first.format,
        width=first.width,
        height=first.height,
        perceptual_hash=perceptual_hash(first.pixels, first.box),
        thumbnail=_thumbnail(first),
        embeddings=embeddings,
    )


def _thumbnail(image: DecodedImage) -> bytes:
    left, top, right, bottom = image.box
    scale = min(1.0, THUMBNAIL_SIDE / max(right - left, bottom - top))
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    small = Image.fromarray(image.pixels).resize(
        size, Image.Resampling.BICUBIC, box=image.box, reducing_gap=2.0
    )
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(small), quality=_THUMBNAIL_QUALITY, colorspace="RGB"
    )
    return encoded
