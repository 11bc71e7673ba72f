"""/gallery: the images that /retrieve-similar finds, as a whole, page by page and many at a time."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import SecretStr

from service import errors
from service.api.access import key_needed
from service.api.answers import root_of
from service.api.body.image import read_image
from service.api.body.parts import Part, stream_parts
from service.api.body.stream import Bounds, deadline_for, is_form
from service.api.gallery_bulk import IMAGE, METADATA, Bulk
from service.api.gallery_schemas import AddedResponse, GalleryOut, ImageOut, ImagesResponse
from service.api.problems import documented
from service.api.retrieve import Where
from service.gallery.gallery import Gallery
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


def gallery_router(gallery: Gallery, api_key: SecretStr | None, bounds: Bounds, *, width: int) -> APIRouter:
    """The routes of the gallery as a whole. `api_key` guards those that change something; `width` images of
    one request are worked on at a time."""
    router = APIRouter(tags=["gallery"])
    guarded = [Depends(key_needed(api_key))]
    bulk = Bulk(gallery.writer, width, bounds)

    @router.get(
        "/gallery",
        summary="What is in the gallery?",
        responses=documented(errors.DatabaseUnreachable, errors.StorageUnavailable),
    )
    async def status() -> GalleryOut:
        """How much it holds and may hold, by which model it answers, and how far a change of that is."""
        return GalleryOut.of(await gallery.status())

    @router.post(
        "/gallery/reindex",
        summary="Let another model answer",
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
        summary="Which images are there?",
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
        summary="Add many images",
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
