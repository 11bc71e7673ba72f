"""/evaluations: the accuracy of models on labelled pictures of the user."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel

from service import errors
from service.api.body.request import Bounds, app_part, in_time, read_body, root_of
from service.api.problems import documented
from service.api.routers import key_needed, new_router
from service.evaluation.merge import judged
from service.evaluation.result import Evaluation, from_json, to_json
from service.evaluation.store import EvaluationStore, EvaluationSummary, summarise
from service.inference.pool import Deadline

router = new_router("evaluations")

Limit = Annotated[int, Query(description="Maximum number of evaluations, newest first", ge=1, le=500)]

_BODY: dict[str, Any] = {
    "requestBody": {
        "description": "An evaluation, as `weighin evaluate --json` writes it",
        "required": True,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{Evaluation.__name__}"}}},
    }
}


class EvaluationsResponse(BaseModel):
    """Evaluations, newest first."""

    evaluations: list[EvaluationSummary]


@router.get(
    "/evaluations",
    summary="List evaluations",
    responses=documented(errors.InvalidParameter, errors.StorageUnavailable),
)
def newest(request: Request, limit: Limit = 50) -> EvaluationsResponse:  # not async: reads the database
    """List the evaluations of `weighin evaluate`, newest first, with the accuracy of each model."""
    return EvaluationsResponse(evaluations=app_part(request, EvaluationStore).summaries(limit))


@router.get(
    "/evaluations/{id}",
    summary="Get an evaluation",
    response_model=Evaluation,
    responses=documented(errors.UnknownEvaluation, errors.StorageUnavailable),
)
def one(request: Request, id: str) -> Response:  # not async: reads the database
    """Return the evaluation of one data set: the figures of each model and of each pair of models."""
    return Response(to_json(app_part(request, EvaluationStore).get(id)), media_type="application/json")


@router.post(
    "/evaluations",
    summary="Store an evaluation",
    status_code=201,
    dependencies=[Depends(key_needed)],
    responses={
        200: {"model": EvaluationSummary, "description": "Added to the evaluation of the same data set"},
        **documented(
            errors.Unauthorized,
            errors.CrossSiteRequest,
            errors.BodyTooLarge,
            errors.InvalidParameter,
            errors.InvalidEvaluation,
            errors.DeadlineExceeded,
            errors.StorageUnavailable,
        ),
    },
    openapi_extra=_BODY,
)
async def add(request: Request, response: Response) -> EvaluationSummary:
    """Store an evaluation that `weighin evaluate` made.

    The document is refused if one of its figures contradicts the counts, or the results for single pictures,
    that the document contains. All pairs of models are compared again. If the data set already has an
    evaluation, the models are added to that evaluation, and models of the same name are replaced.
    """
    bounds = app_part(request, Bounds)
    reading = read_body(request, bounds.body_bytes)
    content = await in_time(reading, Deadline.after(bounds.deadline_s))
    evaluation, added = await asyncio.to_thread(_save, app_part(request, EvaluationStore), content)
    if added:
        response.status_code = 200
    response.headers["Location"] = f"{root_of(request)}/evaluations/{evaluation.id}"
    return summarise(evaluation)


def _save(store: EvaluationStore, content: bytes) -> tuple[Evaluation, bool]:
    """Store the document `content`.

    Returns the stored evaluation, and whether the data set already had an evaluation.
    """
    posted = judged(from_json(content))
    stored = store.save(posted)
    return stored, stored is not posted
