"""/gallery: the images that /retrieve-similar finds, as a whole, page by page and many at a time."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field, SecretStr

from service import errors
from service.api.body.image import read_image
from service.api.body.parts import Part, stream_parts
from service.api.body.request import Bounds, deadline_for, is_form, root_of
from service.api.gallery_bulk import IMAGE, METADATA, AddedResponse, Bulk
from service.api.gallery_images import ImageOut
from service.api.problems import documented
from service.api.retrieve import EXAMPLE_ID, Where
from service.api.routers import key_needed, new_router
from service.gallery.gallery import Gallery, GalleryStatus
from service.gallery.metadata import check_id, parse_where

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
    """Images by id, and where to go on."""

    images: list[ImageOut]
    next_cursor: str | None = Field(description="For the next page; null on the last", examples=[EXAMPLE_ID])
    count: int = Field(description="How many there are in all, or that meet `where`", examples=[1234])


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
        """Build the response."""
        return cls(
            model=status.model,
            images=status.state.images,
            bytes=status.state.bytes,
            quota=QuotaOut(**vars(status.quota)),
            search=None if status.search is None else SearchOut(**vars(status.search)),
            reindexing=None if status.reindexing is None else ReindexingOut(**vars(status.reindexing)),
        )


def gallery_router(gallery: Gallery, api_key: SecretStr | None, bounds: Bounds, *, width: int) -> APIRouter:
    """The routes of the gallery as a whole. `api_key` guards those that change something; `width` images of
    one request are worked on at a time."""
    router = new_router("gallery")
    guarded = [Depends(key_needed(api_key))]
    bulk = Bulk(gallery.writer, width, bounds)

    @router.get(
        "/gallery",
        summary="Get gallery status",
        responses=documented(errors.DatabaseUnreachable, errors.StorageUnavailable),
    )
    async def status() -> GalleryOut:
        """How much it holds and may hold, by which model it answers, and how far a change of that is."""
        return GalleryOut.of(await gallery.status())

    @router.post(
        "/gallery/reindex",
        summary="Start a re-index",
        status_code=202,
        dependencies=guarded,
        responses=documented(
            errors.Unauthorized,
            errors.CrossSiteRequest,
            errors.UnknownModel,
            errors.InvalidParameter,
            errors.NotReady,
            errors.ModelUnavailable,
            errors.DatabaseUnreachable,
            errors.StorageUnavailable,
        ),
    )
    async def reindex(
        model: Annotated[str, Query(description="A served model", examples=["efficientnet-lite0"])],
    ) -> GalleryOut:
        """Embed all images by this model in the background; the old one answers until that is done.

        `GET /gallery` tells how far it is. It goes on after a restart; naming the model that answers ends it.
        """
        await gallery.reindexer.begin(model)
        return GalleryOut.of(await gallery.status())

    @router.get(
        "/gallery/images",
        summary="List images",
        responses=documented(errors.InvalidParameter, errors.DatabaseUnreachable, errors.StorageUnavailable),
    )
    async def images(
        request: Request,
        cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
        limit: Annotated[int, Query(description="Images on a page", ge=1, le=MAX_LIMIT)] = 100,
        where: Where = None,
    ) -> ImagesResponse:
        """Images by id. What is there throughout is told once, whatever comes and goes between the pages."""
        after = None if cursor is None else check_id(cursor)
        found, count = await gallery.writer.page(after, limit + 1, parse_where(where))
        page = found[:limit]
        return ImagesResponse(
            images=[ImageOut.of(image, root_of(request)) for image in page],
            next_cursor=page[-1].id if len(found) > limit else None,
            count=count,
        )

    @router.post(
        "/gallery/images",
        summary="Add images",
        dependencies=guarded,
        responses=documented(
            errors.MalformedRequest,
            errors.Unauthorized,
            errors.CrossSiteRequest,
            errors.BodyTooLarge,
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
        """Keep each image under an id of its own, unless its bytes are there already: `exists`.

        They are kept as they come in, however many there are, and an image that cannot be kept is `rejected`
        without the others. What was kept stays when the request breaks off: sent again, it `exists`.
        """
        if is_form(request):
            return AddedResponse(
                images=await bulk.add(stream_parts(request, bulk.limits, wait_s=bounds.deadline_s))
            )
        data = await read_image(request, bounds, deadline_for(request, bounds))

        async def one() -> Any:
            yield Part(IMAGE, data, len(data))

        return AddedResponse(images=await bulk.add(one()))

    return router
