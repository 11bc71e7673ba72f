"""/gallery/images/{id}: one image of the gallery, its bytes, and the images similar to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field, SecretStr

from service import errors
from service.api.body.image import IMAGE_ERRORS, OPENAPI_BODY, read_image, timed_answer, timings
from service.api.body.parts import stream_parts
from service.api.body.request import (
    Bounds,
    deadline_for,
    ignores_unknown_parameters,
    in_time,
    is_form,
    root_of,
)
from service.api.gallery_bulk import IMAGE, METADATA
from service.api.periods import format_moment
from service.api.problems import documented
from service.api.retrieve import EXAMPLE_ID, K, MatchOut, MetadataOut, MinScore, Where, content_url, match_out
from service.api.routers import key_needed, new_router
from service.gallery.gallery import Gallery
from service.gallery.metadata import MAX_METADATA_BYTES, check_id, parse_metadata, parse_where
from service.gallery.records import Put, StoredImage
from service.gallery.search import SearchOptions

_FORM_BYTES = 10_000
"""What a form may have beside its image and metadata."""

Id = Annotated[str, Path(description="1 to 255 letters, digits, `_`, `.` and `-`", examples=["tabby-1.jpg"])]

_PUT_BODY: dict[str, Any] = {
    "requestBody": {
        **OPENAPI_BODY["requestBody"],
        "description": "The image: as the raw body (any content type), or as a file part named `image`, "
        "then with its metadata as a part named `metadata`.",
        "content": {
            **OPENAPI_BODY["requestBody"]["content"],  # type: ignore[dict-item]
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [IMAGE],
                    "properties": {
                        IMAGE: {"type": "string", "format": "binary"},
                        METADATA: {"type": "string", "description": "A flat JSON object"},
                    },
                }
            },
        },
    }
}

_UNKNOWN = (
    errors.UnknownImage,
    errors.InvalidParameter,
    errors.DatabaseUnreachable,
    errors.StorageUnavailable,
)


class ImageOut(BaseModel):
    """An image of the gallery."""

    id: str = Field(examples=[EXAMPLE_ID])
    metadata: MetadataOut = Field(examples=[{"label": "cat", "year": 2024}])
    width: int = Field(description="Pixels, as displayed", examples=[451])
    height: int = Field(description="Pixels, as displayed", examples=[300])
    format: str = Field(description="What its bytes say it is", examples=["jpeg"])
    bytes: int = Field(description="Of the original", examples=[34213])
    sha256: str = Field(description="Of the original", examples=["9f86d081884c7d659a2feaa0c55ad015..."])
    created_at: str = Field(examples=["2026-01-31T12:00:00Z"])
    image_url: str = Field(examples=[f"/gallery/images/{EXAMPLE_ID}/content"])

    @classmethod
    def of(cls, image: StoredImage, root: str) -> ImageOut:
        """Build the response."""
        return cls(**_facts(image, root))


class PutOut(ImageOut):
    """An image, and what became of it."""

    status: Literal["added", "replaced", "unchanged"]

    @classmethod
    def after(cls, put: Put, root: str) -> PutOut:
        """Build the response."""
        assert put.status != "exists"
        return cls(**_facts(put.image, root), status=put.status)


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


def gallery_images_router(gallery: Gallery, api_key: SecretStr | None, bounds: Bounds) -> APIRouter:
    """Return the routes of one image. `api_key` guards those that change something."""
    router = new_router("gallery", prefix="/gallery/images/{id}")
    guarded = [Depends(key_needed(api_key))]
    writer = gallery.writer

    @router.put(
        "",
        summary="Add or replace an image",
        dependencies=guarded,
        responses={
            200: {"model": PutOut, "description": "Replaced, or there already"},
            201: {"model": PutOut, "description": "New"},
            **documented(
                *IMAGE_ERRORS,
                errors.Unauthorized,
                errors.Busy,
                errors.DatabaseUnreachable,
                errors.GalleryFull,
                errors.StorageUnavailable,
            ),
        },
        openapi_extra=_PUT_BODY,
    )
    async def put(
        request: Request,
        response: Response,
        id: Id,
        metadata: Annotated[
            str | None,
            Query(
                description="A flat JSON object, for an image that is the raw body",
                examples=['{"label": "cat", "year": 2024}'],
            ),
        ] = None,
    ) -> PutOut:
        """Keep the image and its metadata under this id, over what was there: the same again changes nothing.

        It is on the disk, and found, when this answers.
        """
        deadline = deadline_for(request, bounds)
        check_id(id)
        fields = parse_metadata(metadata or "")
        if is_form(request):
            if metadata is not None:
                raise errors.InvalidParameter("metadata of a form are a part of it, not a parameter")
            data, text = await in_time(_read_form(request, bounds), deadline)
            fields = parse_metadata(text)
        else:
            data = await read_image(request, bounds, deadline)
        done = await writer.put(id, data, fields, deadline)
        response.status_code = 201 if done.status == "added" else 200
        return PutOut.after(done, root_of(request))

    @router.get("", summary="Get an image's metadata", responses=documented(*_UNKNOWN))
    async def one(request: Request, id: Id) -> ImageOut:
        """Its metadata, size and when it came."""
        return ImageOut.of(await writer.get(id), root_of(request))

    @router.delete(
        "",
        summary="Delete an image",
        status_code=204,
        dependencies=guarded,
        responses=documented(errors.Unauthorized, errors.CrossSiteRequest, *_UNKNOWN),
    )
    async def delete(id: Id) -> None:
        """Gone for good, and not found any more, when this answers; once more, and it is a 404."""
        await writer.delete(id)

    @router.get(
        "/content",
        summary="Get an image",
        response_class=Response,
        responses={
            200: {"content": {"image/*": {}}, "description": "The bytes as they came"},
            304: {"description": "The client has it"},
            **documented(*_UNKNOWN),
        },
    )
    @ignores_unknown_parameters
    async def content(request: Request, id: Id) -> Response:
        """Its original bytes, with the type that they are of."""
        image = await writer.get(id)
        known = _known(request, image.sha256)
        if known is not None:
            return known
        return _file(await writer.original(image), f"image/{image.format}", image.sha256)

    @router.get(
        "/thumbnail",
        summary="Get a thumbnail",
        response_class=Response,
        responses={
            200: {"content": {"image/jpeg": {}}, "description": "A JPEG of at most 256 x 256 pixels"},
            304: {"description": "The client has it"},
            **documented(*_UNKNOWN),
        },
    )
    @ignores_unknown_parameters
    async def thumbnail(request: Request, id: Id) -> Response:
        """A small JPEG of it, upright, made when the image came."""
        image = await writer.get(id)
        tag = f"{image.sha256}-thumbnail"
        known = _known(request, tag)
        if known is not None:
            return known
        return _file(await writer.thumbnail(image), "image/jpeg", tag)

    @router.get(
        "/similar",
        summary="Find images similar to a stored one",
        response_model=SimilarResponse,
        responses=documented(*_UNKNOWN, errors.Busy, errors.NotReady, errors.ModelUnavailable),
    )
    async def similar(
        request: Request, id: Id, k: K = 10, min_score: MinScore = -1.0, where: Where = None
    ) -> Response:
        """As /retrieve-similar, with a kept image, which is left out of the answer."""
        options = SearchOptions(k, min_score, parse_where(where))
        found = await gallery.retriever.similar(await writer.get(id), options)
        body = {
            "request_id": request.state.request_id,
            "model": found.model,
            "matches": [match_out(match, root_of(request)) for match in found.matches],
            "timings_ms": timings(found.durations),
        }
        return timed_answer(body, found.durations)

    return router


async def _read_form(request: Request, bounds: Bounds) -> tuple[bytes, bytes]:
    """The image and the metadata of a form; empty metadata where there is no such part."""
    limits = {IMAGE: bounds.body_bytes, METADATA: MAX_METADATA_BYTES}
    found: dict[str, list[bytes]] = {IMAGE: [], METADATA: []}
    names: list[str] = []
    whole = bounds.body_bytes + MAX_METADATA_BYTES + _FORM_BYTES
    async for part in stream_parts(request, limits, wait_s=bounds.deadline_s, max_bytes=whole):
        names.append(part.name)
        if part.name in limits and part.data is None:
            kind = errors.BodyTooLarge if part.name == IMAGE else errors.InvalidParameter
            raise kind(f"{part.name} has {part.size} bytes; {limits[part.name]} are allowed")
        if part.data is not None:
            found[part.name].append(part.data)
    if len(found[IMAGE]) != 1 or len(found[METADATA]) > 1:
        told = ", ".join(f"'{name[:50]}'" for name in names[:10]) or "none"
        raise errors.MalformedRequest(
            f"the form needs one part named '{IMAGE}', and may have one named '{METADATA}'; "
            f"its parts are: {told}"
        )
    unknown = [name for name in names if name not in limits]
    if unknown:
        raise errors.InvalidParameter(
            f"unknown form field {unknown[0][:50]!r} (allowed: {IMAGE}, {METADATA})"
        )
    if not found[IMAGE][0]:
        raise errors.EmptyBody
    return found[IMAGE][0], b"".join(found[METADATA])


def _headers(tag: str) -> dict[str, str]:
    # An id may get other bytes, so a cache has to ask each time; the answer is then short.
    return {
        "ETag": f'"{tag}"',
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }


def _known(request: Request, tag: str) -> Response | None:
    """What to answer a client that has these bytes already."""
    given = request.headers.get("if-none-match", "")
    tags = {each.strip().removeprefix("W/") for each in given.split(",")}
    return Response(status_code=304, headers=_headers(tag)) if tags & {f'"{tag}"', "*"} else None


def _file(content: bytes, media_type: str, tag: str) -> Response:
    return Response(content, media_type=media_type, headers=_headers(tag))


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
