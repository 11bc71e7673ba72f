"""Bytes of an image to what the gallery keeps of it: embeddings, a perceptual hash, a thumbnail."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from models.zoo.preprocess import preprocess
from service.errors import InvalidParameter
from service.gallery.perceptual_hash import perceptual_hash
from service.gallery.records import NewImage, Vector
from service.inference.decoding.decode import DecodedImage, decode
from service.inference.registry import ServedModel

OUTPUT: Literal["embedding"] = "embedding"

THUMBNAIL_SIDE = 256
"""Pixels of a thumbnail's longer side, at most."""

_THUMBNAIL_QUALITY = 82


def embedder_of(model: ServedModel) -> str:
    """What embeddings of this model are filed under: its name, and the beginning of its file's SHA-256, since
    another file under the same name gives other embeddings."""
    return f"{model.name}@{model.card.file.sha256[:12]}"


def model_name(embedder: str) -> str:
    """The name in it."""
    return embedder.rpartition("@")[0]


def dimensions_of(model: ServedModel) -> int:
    """Length of the model's embeddings. InvalidParameter for a model that gives none."""
    shape = model.card.outputs.get(OUTPUT)
    if shape is None or len(shape) != 1:
        raise InvalidParameter(f"model '{model.name}' gives no embedding: its card lists no such output")
    return shape[0]


def decode_for(model: ServedModel, data: bytes, *, max_pixels: int) -> DecodedImage:
    """Decode an image as it is to be embedded by `model`: the same for those kept and those asked with.

    Raises the errors of `decode`.
    """
    shorter_side = max(model.card.input.resize, THUMBNAIL_SIDE)
    return decode(data, shorter_side=shorter_side, max_pixels=max_pixels)


def normalised(embedding: NDArray[np.float32]) -> Vector:
    """The finite embedding at length 1; one of zeros stays so."""
    length = float(np.linalg.norm(embedding.astype(np.float64)))
    return (embedding / max(length, 1e-12)).astype(np.float32)


def embed(image: DecodedImage, model: ServedModel) -> Vector:
    """The image's embedding by `model`, at length 1."""
    tensor = preprocess(image.pixels, model.card.input, box=image.box)
    return normalised(model.session.run(tensor, (OUTPUT,))[OUTPUT][0])


def prepare(data: bytes, models: Sequence[ServedModel], *, max_pixels: int) -> NewImage:
    """All that is kept of an image, with embeddings by `models`. Raises the errors of `decode`."""
    first = decode_for(models[0], data, max_pixels=max_pixels)
    embeddings = {embedder_of(models[0]): embed(first, models[0])}
    for model in models[1:]:
        embeddings[embedder_of(model)] = embed(decode_for(model, data, max_pixels=max_pixels), model)
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
