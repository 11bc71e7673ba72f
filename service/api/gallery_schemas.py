"""What the gallery's endpoints answer, field for field; times in milliseconds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.api.periods import format_moment
from service.api.schemas import ImageFacts
from service.gallery.gallery import GalleryStatus
from service.gallery.records import Put, StoredImage
from service.gallery.search import Match

MetadataOut = dict[str, str | int | float | bool | None]

_ID = "tabby-1.jpg"


class ImageOut(BaseModel):
    """An image of the gallery."""

    id: str = Field(examples=[_ID])
    metadata: MetadataOut = Field(examples=[{"label": "cat", "year": 2024}])
    width: int = Field(description="Pixels, as displayed", examples=[451])
    height: int = Field(description="Pixels, as displayed", examples=[300])
    format: str = Field(description="What its bytes say it is", examples=["jpeg"])
    bytes: int = Field(description="Of the original", examples=[34213])
    sha256: str = Field(description="Of the original", examples=["9f86d081884c7d659a2feaa0c55ad015..."])
    created_at: str = Field(examples=["2026-01-31T12:00:00Z"])
    image_url: str = Field(examples=[f"/gallery/images/{_ID}/content"])

    @classmethod
    def of(cls, image: StoredImage, root: str) -> ImageOut:
        """What is told of it."""
        return cls(**_facts(image, root))


class PutOut(ImageOut):
    """An image, and what became of it."""

    status: Literal["added", "replaced", "unchanged"]

    @classmethod
    def after(cls, put: Put, root: str) -> PutOut:
        """What is told of it."""
        assert put.status != "exists"
        return cls(**_facts(put.image, root), status=put.status)


class ImagesResponse(BaseModel):
    """Images by id, and where to go on."""

    images: list[ImageOut]
    next_cursor: str | None = Field(description="For the next page; null on the last", examples=[_ID])
    count: int = Field(description="How many there are in all, or that meet `where`", examples=[1234])


class AddedOut(BaseModel):
    """What became of one of many images."""

    id: str | None = Field(
        description="null where it was rejected", examples=["9f86d081884c7d659a2feaa0c55ad015"]
    )
    status: Literal["added", "exists", "rejected"]
    detail: str | None = Field(description="Why it was rejected, or what was not done")


class AddedResponse(BaseModel):
    """What became of each image, in the order in which they came."""

    images: list[AddedOut]


class MatchOut(BaseModel):
    """A kept image that is like the one asked with."""

    id: str = Field(examples=[_ID])
    score: float = Field(description="Cosine of the embeddings, -1 to 1", examples=[0.913254])
    duplicate: Literal["exact", "near"] | None = Field(
        description="exact: the same bytes; near: the same picture, by perceptual hash and score"
    )
    metadata: MetadataOut = Field(examples=[{"label": "cat", "year": 2024}])
    image_url: str = Field(examples=[f"/gallery/images/{_ID}/content"])


class RetrievalTimings(BaseModel):
    """Milliseconds of each stage; `total` is their sum."""

    queue: float = Field(description="Waiting for a core", examples=[0.041])
    decode: float = Field(description="Bytes to RGB pixels", examples=[0.652])
    preprocess: float = Field(description="Resize, crop, normalise", examples=[0.114])
    inference: float = Field(description="The network", examples=[1.874])
    postprocess: float = Field(description="Hashes, and the embedding at length 1", examples=[0.4])
    search: float = Field(description="The nearest images, and what is known of them", examples=[1.2])
    total: float = Field(examples=[4.281])


class RetrievalResponse(BaseModel):
    """The kept images that are most like the posted one."""

    request_id: str = Field(examples=["7f9c2ba4e88f827d"])
    model: str = Field(examples=["efficientnet-lite0-int8"])
    image: ImageFacts
    matches: list[MatchOut] = Field(description="Best first, equal scores by id")
    hint: str | None = Field(description="What to do about a gallery without images")
    timings_ms: RetrievalTimings


class SimilarTimings(BaseModel):
    """Milliseconds."""

    search: float = Field(examples=[1.2])
    total: float = Field(examples=[1.2])


class SimilarResponse(BaseModel):
    """The kept images that are most like a kept one, itself left out."""

    request_id: str
    model: str
    matches: list[MatchOut]
    timings_ms: SimilarTimings


class QuotaOut(BaseModel):
    """How much the gallery may hold."""

    images: int
    bytes: int


class SearchOut(BaseModel):
    """How searches go."""

    mode: str = Field(description="exact, hnsw, or what is being done meanwhile", examples=["hnsw"])
    indexed: int = Field(description="Images in the index; the others are looked at one by one")


class ReindexingOut(BaseModel):
    """How far the change to another model is."""

    model: str
    done: int
    total: int
    problem: str | None = Field(description="Why it waits, or has stopped")


class GalleryOut(BaseModel):
    """The gallery as a whole."""

    model: str = Field(description="The model by which it answers", examples=["efficientnet-lite0-int8"])
    images: int
    bytes: int = Field(description="Of all originals together")
    quota: QuotaOut
    search: SearchOut | None = Field(description="null until something was searched for")
    reindexing: ReindexingOut | None = Field(description="null when no other model is being changed to")

    @classmethod
    def of(cls, status: GalleryStatus) -> GalleryOut:
        """What is told of it."""
        return cls(
            model=status.model,
            images=status.state.images,
            bytes=status.state.bytes,
            quota=QuotaOut(**vars(status.quota)),
            search=None if status.search is None else SearchOut(**vars(status.search)),
            reindexing=None if status.reindexing is None else ReindexingOut(**vars(status.reindexing)),
        )


def match_out(match: Match, root: str) -> dict[str, Any]:
    """A match as JSON has it; not through pydantic, since there may be a hundred per answer."""
    return {
        "id": match.image.id,
        "score": match.score,
        "duplicate": match.duplicate,
        "metadata": match.image.metadata,
        "image_url": content_url(match.image.id, root),
    }


def content_url(id: str, root: str) -> str:
    """Path of the image's bytes. `root`: the prefix of public addresses."""
    return f"{root}/gallery/images/{id}/content"


def _facts(image: StoredImage, root: str) -> dict[str, Any]:
    return {
        "id": image.id,
        "metadata": dict(image.metadata),
        "width": image.width,
        "height": image.height,
        "format": image.format,
        "bytes": image.bytes,
        "sha256": image.sha256,
        "created_at": format_moment(image.created_at),
        "image_url": content_url(image.id, root),
    }
