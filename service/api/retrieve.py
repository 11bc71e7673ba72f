"""POST /retrieve-similar: which images of the gallery are like this one?"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from service import errors
from service.api.answers import image_facts, root_of, timed_answer, timings
from service.api.body.image import IMAGE_ERRORS, OPENAPI_BODY, form_first, read_image
from service.api.body.stream import Bounds, deadline_for
from service.api.gallery_schemas import RetrievalResponse, match_out
from service.api.middleware.error_counting import note_model
from service.api.problems import documented
from service.gallery.metadata import parse_where
from service.gallery.search import MAX_K, Retrieval, Retriever, SearchOptions

HINT = (
    "the gallery has no images yet: add some with PUT /gallery/images/{id}, with POST /gallery/images, "
    "or with `weighin gallery add FOLDER`"
)

K = Annotated[int, Query(description=f"How many matches at most: 1 to {MAX_K}", ge=1, le=MAX_K)]
MinScore = Annotated[
    float, Query(description="The least score of a match, -1 to 1", ge=-1, le=1, allow_inf_nan=False)
]
Where = Annotated[
    str | None,
    Query(
        description="Conditions on metadata, as JSON: a value for equality, or `gte`, `gt`, `lte`, `lt`",
        examples=['{"label": "cat", "year": {"gte": 2019, "lt": 2024}}'],
    ),
]


def retrieve_router(retriever: Retriever, bounds: Bounds) -> APIRouter:
    """The route that finds images by their likes."""
    router = APIRouter(tags=["gallery"])
    form = [Depends(form_first(bounds))]

    @router.post(
        "/retrieve-similar",
        summary="Find similar images",
        response_model=RetrievalResponse,
        responses=documented(
            *IMAGE_ERRORS,
            errors.UnknownModel,
            errors.OtherModel,
            errors.Busy,
            errors.DatabaseUnreachable,
            errors.StorageUnavailable,
        ),
        openapi_extra=OPENAPI_BODY,
        dependencies=form,
    )
    async def retrieve_similar(
        request: Request,
        k: K = 10,
        model: Annotated[
            str | None, Query(description="The gallery's model, to be sure; another one is a 409")
        ] = None,
        min_score: MinScore = -1.0,
        where: Where = None,
    ) -> Response:
        """The kept images whose embeddings have the greatest cosine with the posted image's.

        `duplicate` is "exact" for the same bytes and "near" for the same picture in other bytes.
        """
        deadline = deadline_for(request, bounds)
        options = SearchOptions(k, min_score, parse_where(where))
        answering = await retriever.network(model)
        note_model(request, answering.model.name)
        data = await read_image(request, bounds, deadline)
        found = await retriever.retrieve(data, options, deadline, answering)
        return timed_answer(_retrieval(request, found, answering.images), found.durations)

    return router


def _retrieval(request: Request, found: Retrieval, images: int) -> dict[str, Any]:
    assert found.asked is not None
    return {
        "request_id": request.state.request_id,
        "model": found.model,
        "image": image_facts(found.asked),
        "matches": [match_out(match, root_of(request)) for match in found.matches],
        "hint": HINT if images == 0 else None,
        "timings_ms": timings(found.durations),
    }
