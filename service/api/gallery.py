"""/gallery: status, re-index, list and bulk upload of the images that /retrieve-similar searches."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field

from service import errors
from service.api.body.image import read_image
from service.api.body.parts import Part, stream_parts
from service.api.body.request import app_part, deadline_for, is_form, root_of
from service.api.gallery_bulk import IMAGE, METADATA, AddedResponse, Bulk
from service.api.gallery_images import ImageOut
from service.api.problems import documented
from service.api.retrieve import EXAMPLE_ID, Where
from service.api.routers import key_needed, new_router
from service.gallery.gallery import Gallery, GalleryStatus
from service.gallery.metadata import check_id, parse_where

router = new_router("gallery")

MAX_LIMIT = 1000

_BULK_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A form with any number of file parts named `image`, each of which may have a part "
        "named `metadata` (a flat JSON object) before it; or one image as the raw body.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [IMAGE],
                    "properties": {
                        IMAGE: {"type": "array", "items": {"type": "string", "format": "binary"}},
                        METADATA: {"type": "array", "items": {"type": "string"}},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class ImagesResponse(BaseModel):
    """One page of images, ordered by id."""

    images: list[ImageOut]
    next_cursor: str | None = Field(
        description="Cursor of the next page; null on the last page", examples=[EXAMPLE_ID]
    )
    count: int = Field(description="Number of all images, or of those that match `where`", examples=[1234])


class QuotaOut(BaseModel):
    """Maximum size of the gallery."""

    images: int
    bytes: int


class SearchOut(BaseModel):
    """State of the vector index."""

    mode: str = Field(
        description="`exact`, `hnsw`, or `streaming` until the index is built", examples=["hnsw"]
    )
    indexed: int = Field(description="Images in the index; searches scan the others one by one")


class ReindexingOut(BaseModel):
    """Progress of a re-index."""

    model: str = Field(description="The new model")
    done: int
    total: int
    problem: str | None = Field(description="Why the re-index waits or has stopped; else null")


class GalleryOut(BaseModel):
    """Status of the gallery."""

    model: str = Field(
        description="Model whose embeddings searches use", examples=["efficientnet-lite0-int8"]
    )
    replaced: bool = Field(
        description="Whether this model was replaced or removed in the meantime. If so, the gallery uses its "
        "own copy of the old model until it is re-indexed"
    )
    images: int
    bytes: int = Field(description="Total size of the original files")
    quota: QuotaOut
    search: SearchOut | None = Field(description="null before the first search")
    reindexing: ReindexingOut | None = Field(description="null unless a re-index is in progress")

    @classmethod
    def of(cls, status: GalleryStatus) -> GalleryOut:
        """Build the response."""
        return cls(
            model=status.model,
            replaced=status.replaced,
            images=status.state.images,
            bytes=status.state.bytes,
            quota=QuotaOut(**vars(status.quota)),
            search=None if status.search is None else SearchOut(**vars(status.search)),
            reindexing=None if status.reindexing is None else ReindexingOut(**vars(status.reindexing)),
        )


@router.get(
    "/gallery",
    summary="Get gallery status",
    responses=documented(errors.DatabaseUnreachable, errors.StorageUnavailable),
)
async def status(request: Request) -> GalleryOut:
    """Return size, quota, model, index and re-index progress."""
    return GalleryOut.of(await app_part(request, Gallery).status())


@router.post(
    "/gallery/reindex",
    summary="Start a re-index",
    status_code=202,
    dependencies=[Depends(key_needed)],
    responses=documented(
        errors.Unauthorized,
        errors.CrossSiteRequest,
        errors.UnknownModel,
        errors.InvalidParameter,
        errors.OtherTask,
        errors.NotReady,
        errors.ModelUnavailable,
        errors.Busy,
        errors.DatabaseUnreachable,
        errors.StorageUnavailable,
    ),
)
async def reindex(
    request: Request,
    model: Annotated[str, Query(description="A served model", examples=["efficientnet-lite0"])],
) -> GalleryOut:
    """Re-embed all images with this model in the background.

    Until the re-index ends, searches use the old model. `GET /gallery` returns the progress. A re-index
    continues after a restart. To cancel it, start a re-index with the current model.
    """
    gallery = app_part(request, Gallery)
    await gallery.reindexer.begin(model)
    return GalleryOut.of(await gallery.status())


@router.get(
    "/gallery/images",
    summary="List images",
    responses=documented(errors.InvalidParameter, errors.DatabaseUnreachable, errors.StorageUnavailable),
)
async def images(
    request: Request,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the previous page")] = None,
    limit: Annotated[int, Query(description="Images per page", ge=1, le=MAX_LIMIT)] = 100,
    where: Where = None,
) -> ImagesResponse:
    """List images by id.

    Images that exist during the whole listing appear exactly once, even if other images are added or deleted.
    """
    after = None if cursor is None else check_id(cursor)
    rows, count = await app_part(request, Gallery).writer.page(after, limit + 1, parse_where(where))
    page = rows[:limit]
    return ImagesResponse(
        images=[ImageOut.of(image, root_of(request)) for image in page],
        next_cursor=page[-1].id if len(rows) > limit else None,
        count=count,
    )


@router.post(
    "/gallery/images",
    summary="Add images",
    dependencies=[Depends(key_needed)],
    responses=documented(
        errors.MalformedRequest,
        errors.Unauthorized,
        errors.CrossSiteRequest,
        errors.BodyTooLarge,
        errors.UnknownImageType,
        errors.EmptyBody,
        errors.InvalidParameter,
        errors.DatabaseUnreachable,
        errors.DeadlineExceeded,
        errors.GalleryFull,
        errors.StorageUnavailable,
    ),
    openapi_extra=_BULK_BODY,
)
async def add(request: Request) -> AddedResponse:
    """Add each image under a generated id.

    An image whose bytes are already stored gets the status `exists`. Images are committed one by one as they
    arrive; the size of the request is not limited. An image that cannot be stored gets `rejected`, and the
    other images are added. If the request breaks off, the images that were added so far stay; if you send
    them again, they get `exists`.
    """
    bulk = app_part(request, Bulk)
    if is_form(request):
        parts = stream_parts(request, bulk.limits, wait_s=bulk.bounds.deadline_s)
        return AddedResponse(images=await bulk.add(parts))
    data = await read_image(request, deadline_for(request))

    async def raw_body() -> Any:
        yield Part(IMAGE, data, len(data))

    return AddedResponse(images=await bulk.add(raw_body()))
