"""Records of the gallery: images, changes, state, quota, filter conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scalar = str | float | int | bool | None
Metadata = Mapping[str, Scalar]
"""A flat object, whose values are strings, finite numbers, booleans and nulls."""

Vector = NDArray[np.float32]
"""An embedding of length 1, float32 (D,)."""

Embeddings = Mapping[str, Vector]
"""Embeddings of one image by embedder."""

PutStatus = Literal["added", "replaced", "unchanged", "exists"]


@dataclass(frozen=True, eq=False)
class NewImage:
    """An image to store. `perceptual_hash`: 64 bits; `thumbnail`: JPEG."""

    content: bytes
    sha256: str
    format: str
    width: int
    height: int
    perceptual_hash: int
    thumbnail: bytes
    embeddings: Embeddings


@dataclass(frozen=True)
class StoredImage:
    """A stored image without its bytes. `created_at`: seconds since 1970."""

    key: int
    id: str
    sha256: str
    perceptual_hash: int
    format: str
    width: int
    height: int
    bytes: int
    metadata: Metadata
    created_at: float


@dataclass(frozen=True)
class Put:
    """Result of storing an image; if `status` is "exists", `image` is the stored image with these bytes."""

    status: PutStatus
    image: StoredImage


@dataclass(frozen=True, eq=False)
class Change:
    """A change of the gallery, for a vector index: an image's vector was added, or an image was deleted.

    `vector` is None if the image was deleted. `sequence` numbers increase and are never reused.
    """

    sequence: int
    key: int
    vector: Vector | None


@dataclass(frozen=True)
class Extent:
    """Extent of a network's embeddings: number of the last change, and number of embeddings."""

    sequence: int
    count: int


@dataclass(frozen=True)
class SearchStatus:
    """Status of the search: `mode`, and number of images in the index."""

    mode: str
    indexed: int


@dataclass(frozen=True)
class Quota:
    """Maximum size of the gallery."""

    images: int
    bytes: int


@dataclass(frozen=True)
class GalleryState:
    """State of the gallery.

    `embedder`: id of the active network, None before the first image. `target`: id of the new network during
    a re-index, else None. `service.gallery.embed.embedder_of` returns these ids. `sequence`: number of the
    last change. `revision` increases with every write, including writes of metadata.
    """

    embedder: str | None = None
    target: str | None = None
    sequence: int = 0
    revision: int = 0
    images: int = 0
    bytes: int = 0

    @property
    def embedders(self) -> tuple[str, ...]:
        """Embedders whose embeddings a new image needs."""
        return tuple(name for name in (self.embedder, self.target) if name is not None)


class EmbeddersChanged(Exception):
    """The gallery's embedders changed after an image or a query was embedded by the previous ones."""


@dataclass(frozen=True)
class Condition:
    """Condition of a metadata filter: compare the field `name` with `value`.

    A field never matches if its type is not that of `value`. With `eq`, `value` may be of any type. With the
    other operators, it must be a string or a number.
    """

    name: str
    operator: Literal["eq", "gte", "gt", "lte", "lt"]
    value: Scalar
