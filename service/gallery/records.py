"""What the gallery's store takes and gives: images, facts, changes, and the state of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scalar = str | float | int | bool | None
Metadata = Mapping[str, Scalar]
"""A flat object: strings, finite numbers, booleans and nulls by name."""

Vector = NDArray[np.float32]
"""An embedding of length 1, float32 (D,)."""

Embeddings = Mapping[str, Vector]
"""Embeddings of one image by embedder."""

PutStatus = Literal["added", "replaced", "unchanged", "exists"]


@dataclass(frozen=True, eq=False)
class NewImage:
    """An image as it is to be kept. `perceptual_hash` has 64 bits; `thumbnail` is a JPEG."""

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
    """What is known of a kept image, without its bytes. `created_at`: seconds since 1970."""

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
    """What became of an image that was to be kept: of "exists", `image` is the one that has its bytes."""

    status: PutStatus
    image: StoredImage


@dataclass(frozen=True, eq=False)
class Change:
    """One step of the gallery's history, for a vector index: `vector` is there from this change on, or with
    None the image of that key is gone. Numbers of changes grow and are never given twice."""

    sequence: int
    key: int
    vector: Vector | None


@dataclass(frozen=True)
class Extent:
    """How far embeddings of one network go: the last change there was, and how many images have one."""

    sequence: int
    count: int


@dataclass(frozen=True)
class SearchStatus:
    """How a search runs: its `mode`, and how many images are in its index."""

    mode: str
    indexed: int


@dataclass(frozen=True)
class Quota:
    """How much a gallery may hold."""

    images: int
    bytes: int


@dataclass(frozen=True)
class GalleryState:
    """The gallery as a whole.

    `embedder` is the network whose embeddings answer (None before the first image), `target` the one that
    all images are being embedded with meanwhile; both as `model@start of its file's sha256`. `sequence` is
    the last change, `revision` grows with every write, those of metadata included.
    """

    embedder: str | None = None
    target: str | None = None
    sequence: int = 0
    revision: int = 0
    images: int = 0
    bytes: int = 0

    @property
    def embedders(self) -> tuple[str, ...]:
        """Those that an image which comes now needs an embedding of."""
        return tuple(each for each in (self.embedder, self.target) if each is not None)


class EmbeddersChanged(Exception):
    """An image came with embeddings of other networks than the gallery's, which changed meanwhile."""


@dataclass(frozen=True)
class Condition:
    """One condition of a `where`: the field `name` compared with `value`, by type and value.

    Fields of another type than `value` never match; `eq` takes any type, the others strings and numbers.
    """

    name: str
    operator: Literal["eq", "gte", "gt", "lte", "lt"]
    value: Scalar
