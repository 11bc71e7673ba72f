"""/gallery/images/{id}: store, read and delete one image, and find images similar to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field

from service import errors
from service.api.body.image import IMAGE_ERRORS, OPENAPI_BODY, read_image, timed_answer, timings
from service.api.body.parts import stream_parts
from service.api.body.request import (
    Bounds,
    app_part,
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
from service.gallery.writer import GalleryWriter

router = new_router("gallery", prefix="/gallery/images/{id}")

_FORM_BYTES = 10_000
"""Maximum bytes of a form beside its image and metadata."""

Id = Annotated[str, Path(description="1 to 255 letters, digits, `_`, `.` and `-`", examples=["tabby-1.jpg"])]

_PUT_BODY: dict[str, Any] = {
    "requestBody": {
        **OPENAPI_BODY["requestBody"],
        "description": "The image: as the raw body (any content type), or as a file part named `image`, "
        "with its metadata in a part named `metadata`.",
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
    format: str = Field(description="Format, detected from the file signature", examples=["jpeg"])
    bytes: int = Field(description="Size of the original file", examples=[34213])
    sha256: str = Field(
        description="SHA-256 of the original file", examples=["9f86d081884c7d659a2feaa0c55ad015..."]
    )
    created_at: str = Field(examples=["2026-01-31T12:00:00Z"])
    image_url: str = Field(examples=[f"/gallery/images/{EXAMPLE_ID}/content"])

    @classmethod
    def of(cls, image: StoredImage, root: str) -> ImageOut:
        """Build the response."""
        return cls(**_facts(image, root))


class PutOut(ImageOut):
    """A stored image, and what the request changed."""

    status: Literal["added", "replaced", "unchanged"]

    @classmethod
    def after(cls, put: Put, root: str) -> PutOut:
        """Build the response."""
        assert put.status != "exists"
        return cls(**_facts(put.image, root), status=put.status)


class SimilarTimings(BaseModel):
    """Milliseconds per stage."""

    search: float = Field(examples=[1.2])
    total: float = Field(examples=[1.2])


class SimilarResponse(BaseModel):
    """The stored images that are most similar to another stored image."""

    request_id: str
    model: str
    matches: list[MatchOut]
    timings_ms: SimilarTimings


@router.put(
    "",
    summary="Add or replace an image",
    dependencies=[Depends(key_needed)],
    responses={
        200: {"model": PutOut, "description": "Replaced or unchanged"},
        201: {"model": PutOut, "description": "New"},
        **documented(
            *IMAGE_ERRORS,
            errors.Unauthorized,
            errors.OtherTask,
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
            description="A flat JSON object; allowed only if the image is the raw body",
            examples=['{"label": "cat", "year": 2024}'],
        ),
    ] = None,
) -> PutOut:
    """Store an image and its metadata under this id, or replace the image that has this id. Idempotent.

    When the response arrives, the image is on disk and visible to searches.
    """
    deadline = deadline_for(request)
    check_id(id)
    fields = parse_metadata(metadata or "")
    if is_form(request):
        if metadata is not None:
            raise errors.InvalidParameter("metadata: query parameter with a form (allowed: a form part)")
        data, text = await in_time(_read_form(request), deadline)
        fields = parse_metadata(text)
    else:
        data = await read_image(request, deadline)
    result = await _writer(request).put(id, data, fields, deadline)
    response.status_code = 201 if result.status == "added" else 200
    return PutOut.after(result, root_of(request))


@router.get("", summary="Get an image's metadata", responses=documented(*_UNKNOWN))
async def one(request: Request, id: Id) -> ImageOut:
    """Return metadata, size, hash and time of creation."""
    return ImageOut.of(await _writer(request).get(id), root_of(request))


@router.delete(
    "",
    summary="Delete an image",
    status_code=204,
    dependencies=[Depends(key_needed)],
    responses=documented(errors.Unauthorized, errors.CrossSiteRequest, *_UNKNOWN),
)
async def delete(request: Request, id: Id) -> None:
    """Delete an image.

    When the response arrives, searches no longer find the image. A second request for the same id gets 404.
    """
    await _writer(request).delete(id)


@router.get(
    "/content",
    summary="Get an image",
    response_class=Response,
    responses={
        200: {"content": {"image/*": {}}, "description": "The original bytes"},
        304: {"description": "Not modified"},
        **documented(*_UNKNOWN),
    },
)
@ignores_unknown_parameters
async def content(request: Request, id: Id) -> Response:
    """Return the original bytes, with the media type of their format."""
    writer = _writer(request)
    image = await writer.get(id)
    not_modified = _not_modified(request, image.sha256)
    if not_modified is not None:
        return not_modified
    return _file(await writer.original(image), f"image/{image.format}", image.sha256)


@router.get(
    "/thumbnail",
    summary="Get a thumbnail",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "A JPEG of at most 256 x 256 pixels"},
        304: {"description": "Not modified"},
        **documented(*_UNKNOWN),
    },
)
@ignores_unknown_parameters
async def thumbnail(request: Request, id: Id) -> Response:
    """Return the image as a small upright JPEG, made when the image was added."""
    writer = _writer(request)
    image = await writer.get(id)
    tag = f"{image.sha256}-thumbnail"
    not_modified = _not_modified(request, tag)
    if not_modified is not None:
        return not_modified
    return _file(await writer.thumbnail(image), "image/jpeg", tag)


@router.get(
    "/similar",
    summary="Find images similar to a stored one",
    response_model=SimilarResponse,
    responses=documented(*_UNKNOWN, errors.OtherTask, errors.Busy, errors.NotReady, errors.ModelUnavailable),
)
async def similar(
    request: Request, id: Id, k: K = 10, min_score: MinScore = -1.0, where: Where = None
) -> Response:
    """Find the other images that are most similar to a stored image, as `/retrieve-similar` does."""
    options = SearchOptions(k, min_score, parse_where(where))
    gallery = app_part(request, Gallery)
    retrieval = await gallery.retriever.similar(await gallery.writer.get(id), options)
    body = {
        "request_id": request.state.request_id,
        "model": retrieval.model,
        "matches": [match_out(match, root_of(request)) for match in retrieval.matches],
        "timings_ms": timings(retrieval.durations),
    }
    return timed_answer(body, retrieval.durations)


def _writer(request: Request) -> GalleryWriter:
    return app_part(request, Gallery).writer


async def _read_form(request: Request) -> tuple[bytes, bytes]:
    """Return the image and the metadata of a form. Without metadata, the second value is empty."""
    bounds = app_part(request, Bounds)
    limits = {IMAGE: bounds.body_bytes, METADATA: MAX_METADATA_BYTES}
    contents: dict[str, list[bytes]] = {IMAGE: [], METADATA: []}
    names: list[str] = []
    form_bytes = bounds.body_bytes + MAX_METADATA_BYTES + _FORM_BYTES
    async for part in stream_parts(request, limits, wait_s=bounds.deadline_s, max_bytes=form_bytes):
        names.append(part.name)
        if part.name in limits and part.data is None:
            kind = errors.BodyTooLarge if part.name == IMAGE else errors.InvalidParameter
            raise kind(f"{part.name}: {part.size} bytes (limit: {limits[part.name]})")
        if part.data is not None:
            contents[part.name].append(part.data)
    if len(contents[IMAGE]) != 1 or len(contents[METADATA]) > 1:
        parts = ", ".join(f"'{name[:50]}'" for name in names[:10]) or "none"
        raise errors.MalformedRequest(
            f"multipart form: parts {parts} (allowed: one '{IMAGE}', at most one '{METADATA}')"
        )
    unknown = [name for name in names if name not in limits]
    if unknown:
        raise errors.InvalidParameter(
            f"unknown form field {unknown[0][:50]!r} (allowed: {IMAGE}, {METADATA})"
        )
    if not contents[IMAGE][0]:
        raise errors.EmptyBody
    return contents[IMAGE][0], b"".join(contents[METADATA])


def _headers(tag: str) -> dict[str, str]:
    # An image can be replaced under its id, so caches must revalidate.
    return {
        "ETag": f'"{tag}"',
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }


def _not_modified(request: Request, tag: str) -> Response | None:
    """Return a response with status 304 if the client has the current version of the image, else None.

    `tag`: tag of the current version, which is looked for in the header If-None-Match.
    """
    if_none_match = request.headers.get("if-none-match", "")
    tags = {text.strip().removeprefix("W/") for text in if_none_match.split(",")}
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
