"""POST /retrieve-similar: find the images of the gallery that are most similar to a posted image."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from pydantic import BaseModel, Field

from service import errors
from service.api.body.image import (
    IMAGE_ERRORS,
    OPENAPI_BODY,
    ImageFacts,
    ImageRoute,
    image_facts,
    read_image,
    timed_answer,
    timings,
)
from service.api.body.request import app_part, deadline_for, root_of
from service.api.middleware.context import note_model
from service.api.problems import documented
from service.api.routers import new_router
from service.gallery.gallery import Gallery
from service.gallery.metadata import parse_where
from service.gallery.search import MAX_K, Match, Retrieval, SearchOptions

router = new_router("gallery", route_class=ImageRoute)

MetadataOut = dict[str, str | int | float | bool | None]

EXAMPLE_ID = "tabby-1.jpg"

HINT = (
    "the gallery has no images yet: add images with PUT /gallery/images/{id}, POST /gallery/images "
    "or `weighin gallery add FOLDER`"
)

K = Annotated[int, Query(description=f"Maximum number of matches, 1 to {MAX_K}", ge=1, le=MAX_K)]
MinScore = Annotated[
    float, Query(description="Minimum score of a match, -1 to 1", ge=-1, le=1, allow_inf_nan=False)
]
Where = Annotated[
    str | None,
    Query(
        description="Metadata filter as JSON: for each field, a value, or bounds `gte`, `gt`, `lte`, `lt`",
        examples=['{"label": "cat", "year": {"gte": 2019, "lt": 2024}}'],
    ),
]


class MatchOut(BaseModel):
    """A stored image that is similar to the query image."""

    id: str = Field(examples=[EXAMPLE_ID])
    score: float = Field(description="Cosine of the embeddings, -1 to 1", examples=[0.913254])
    duplicate: Literal["exact", "near"] | None = Field(
        description="exact: same bytes; near: same picture in other bytes, by perceptual hash and score"
    )
    metadata: MetadataOut = Field(examples=[{"label": "cat", "year": 2024}])
    image_url: str = Field(examples=[f"/gallery/images/{EXAMPLE_ID}/content"])


class RetrievalTimings(BaseModel):
    """Milliseconds per stage. `total` is the sum of the stages."""

    queue: float = Field(description="Waiting for a core", examples=[0.041])
    decode: float = Field(description="Bytes to RGB pixels", examples=[0.652])
    preprocess: float = Field(description="Resize, crop, normalise", examples=[0.114])
    inference: float = Field(description="Run of the network", examples=[1.874])
    postprocess: float = Field(description="Hashes, and normalization of the embedding", examples=[0.4])
    search: float = Field(description="Nearest neighbours and their metadata", examples=[1.2])
    total: float = Field(examples=[4.281])


class RetrievalResponse(BaseModel):
    """The stored images that are most similar to the posted image."""

    request_id: str = Field(examples=["7f9c2ba4e88f827d"])
    model: str = Field(examples=["efficientnet-lite0-int8"])
    image: ImageFacts
    matches: list[MatchOut] = Field(description="Best first, ties by id")
    hint: str | None = Field(description="How to add images if the gallery is empty; else null")
    timings_ms: RetrievalTimings


@router.post(
    "/retrieve-similar",
    summary="Find similar images",
    response_model=RetrievalResponse,
    responses=documented(
        *IMAGE_ERRORS,
        errors.UnknownModel,
        errors.OtherModel,
        errors.OtherTask,
        errors.Busy,
        errors.DatabaseUnreachable,
        errors.StorageUnavailable,
    ),
    openapi_extra=OPENAPI_BODY,
)
async def retrieve_similar(
    request: Request,
    k: K = 10,
    model: Annotated[
        str | None, Query(description="Model that the gallery is expected to use; 409 if it uses another")
    ] = None,
    min_score: MinScore = -1.0,
    where: Where = None,
) -> Response:
    """Find the stored images with the highest cosine similarity to the posted image.

    `duplicate` is "exact" for the same bytes and "near" for the same picture in other bytes.
    """
    retriever = app_part(request, Gallery).retriever
    deadline = deadline_for(request)
    options = SearchOptions(k, min_score, parse_where(where))
    active = await retriever.active_model(model)
    note_model(request, active.model.name)
    data = await read_image(request, deadline)
    retrieval = await retriever.retrieve(data, options, deadline, active)
    return timed_answer(_retrieval(request, retrieval, active.images), retrieval.durations)


def _retrieval(request: Request, retrieval: Retrieval, images: int) -> dict[str, Any]:
    assert retrieval.image is not None
    return {
        "request_id": request.state.request_id,
        "model": retrieval.model,
        "image": image_facts(retrieval.image),
        "matches": [match_out(match, root_of(request)) for match in retrieval.matches],
        "hint": HINT if images == 0 else None,
        "timings_ms": timings(retrieval.durations),
    }


def match_out(match: Match, root: str) -> dict[str, Any]:
    """Return a match as the JSON object that `MatchOut` describes.

    pydantic would be slow for a response with 100 matches.
    """
    return {
        "id": match.image.id,
        "score": match.score,
        "duplicate": match.duplicate,
        "metadata": match.image.metadata,
        "image_url": content_url(match.image.id, root),
    }


def content_url(id: str, root: str) -> str:
    """Return the URL path of an image's bytes. `root`: URL prefix of the service."""
    return f"{root}/gallery/images/{id}/content"
