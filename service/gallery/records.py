"""Records of the gallery: images, changes, the gallery's state, its quota, and filter conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scalar = str | float | int | bool | None
Metadata = Mapping[str, Scalar]
"""The metadata of an image: strings, finite numbers, booleans and nulls, by the field's name."""

Vector = NDArray[np.float32]
"""An embedding of length 1, float32 (D,)."""

Embeddings = Mapping[str, Vector]
"""The embeddings of one image, by embedder, which is the id of the network that computed them."""

PutStatus = Literal["added", "replaced", "unchanged", "exists"]


@dataclass(frozen=True, eq=False)
class NewImage:
    """An image that is to be stored, with all that the gallery stores of it.

    `content`: the bytes of its file. `perceptual_hash`: 64 bits. `thumbnail`: a JPEG.
    """

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
    """What the gallery knows of a stored image, without the image itself.

    `key`: number by which the database identifies the image; it changes if another file replaces the image.
    `id`: name that clients use. `bytes`: size of the image's file. `created_at`: seconds since 1970.
    """

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
    """Result of storing an image.

    `status` says what was done. If it is "exists", nothing was done, and `image` is the stored image with the
    same bytes.
    """

    status: PutStatus
    image: StoredImage


@dataclass(frozen=True, eq=False)
class Change:
    """A change of the gallery that a vector index must follow.

    Either an image's vector was added, or an image was deleted. In the latter case, `vector` is None. `key`:
    the image's key. `sequence` numbers increase and are never reused.
    """

    sequence: int
    key: int
    vector: Vector | None


@dataclass(frozen=True)
class Extent:
    """Extent of a network's embeddings.

    `sequence`: number of the gallery's last change. `count`: number of embeddings.
    """

    sequence: int
    count: int


@dataclass(frozen=True)
class SearchStatus:
    """Status of the search.

    `mode`: how searches work, e.g. "exact". `indexed`: number of images in the index.
    """

    mode: str
    indexed: int


@dataclass(frozen=True)
class Quota:
    """Maximum size of the gallery. `images`: number of images. `bytes`: size of their files together."""

    images: int
    bytes: int


@dataclass(frozen=True)
class GalleryState:
    """State of the gallery.

    `embedder`: id of the active network, None before the first image. `target`: id of the new network during
    a re-index, otherwise None. `service.gallery.embed.embedder_of` returns these ids. `sequence`: number of
    the last change of images. `revision` increases with every write, including writes of metadata. `images`:
    number of images. `bytes`: size of their files together.
    """

    embedder: str | None = None
    target: str | None = None
    sequence: int = 0
    revision: int = 0
    images: int = 0
    bytes: int = 0

    @property
    def embedders(self) -> tuple[str, ...]:
        """The embedders whose embeddings a new image needs: the active one, and the target of a re-index."""
        return tuple(name for name in (self.embedder, self.target) if name is not None)


class EmbeddersChanged(Exception):
    """The gallery's embedders have changed after an image or a query was embedded by the previous ones."""


@dataclass(frozen=True)
class Condition:
    """A condition of a metadata filter: how the field `name` must compare with `value`.

    A field never matches if its type is not that of `value`. With `eq`, `value` may be of any type. With the
    other operators, it must be a string or a number.
    """

    name: str
    operator: Literal["eq", "gte", "gt", "lte", "lt"]
    value: Scalar
