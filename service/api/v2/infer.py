"""POST /v2/models/{name}/infer: run a network on tensors, or on encoded images."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from models.zoo.display import comma_list
from service import errors
from service.api.body.image import IMAGE_ERRORS
from service.api.body.request import (
    Bounds,
    app_part,
    deadline_for,
    in_time,
    read_body,
    refuse_unknown_parameters,
)
from service.api.problems import documented
from service.api.routers import new_router
from service.api.v2.metadata import served_model
from service.api.v2.runs import BatchRunner, Plan
from service.api.v2.schemas import InferRequest, InferResponse, inlined
from service.api.v2.tensors import shown, wanted_outputs
from service.api.v2.wire import (
    BINARY,
    HEADER_LENGTH,
    JSON,
    Batch,
    json_length,
    read_batch,
    read_request,
    write_response,
)
from service.errors import InvalidInferenceRequest, UnsupportedEncoding
from service.inference.detect import DetectPlan, detect_plan
from service.inference.loading import ServedModel

_PARSED_AT_ONCE_BYTES = 100_000
"""Maximum bytes of JSON that the event loop parses. Longer JSON is parsed by a job on the pool."""

_MOST_CLASSES_CHARACTERS = 4000
"""Maximum length of the parameter `classes`.

It is limited because matching labels takes longer than reading them.
"""


class DirectRoute(APIRoute):
    """A route whose endpoint takes the request and parameters of the path, and returns a Response.

    FastAPI documents the route. As in `ImageRoute`, the endpoint is called directly, because FastAPI would
    take too long to call it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        await refuse_unknown_parameters(request)
        endpoint = self.dependant.call
        assert endpoint is not None
        response = await endpoint(request, **scope["path_params"])
        await response(scope, receive, send)


router = new_router("inference protocol", route_class=DirectRoute, protocol=True)

_OPENAPI: dict[str, Any] = {
    "parameters": [
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "required": False,
            "description": "Bytes of the JSON, if binary tensors follow it",
            "schema": {"type": "integer", "minimum": 0},
        }
    ],
    "requestBody": {
        "required": True,
        "description": "A JSON object; the bytes of binary tensors may follow it",
        "content": {
            JSON: {"schema": inlined(InferRequest)},
            BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The outputs; the bytes of binary ones follow the JSON",
        "content": {BINARY: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            HEADER_LENGTH: {
                "description": "Bytes of the JSON, if binary outputs follow it",
                "schema": {"type": "integer", "minimum": 0},
            }
        },
    },
    **documented(
        *(kind for kind in IMAGE_ERRORS if kind is not errors.EmptyBody),
        errors.UnknownModel,
        InvalidInferenceRequest,
        UnsupportedEncoding,
        protocol=True,
    ),
}


@router.post(
    "/v2/models/{name}/versions/{version}/infer",
    summary="Infer with a version of a model",
    response_model=InferResponse,
    responses=_RESPONSES,
    openapi_extra=_OPENAPI,
)
@router.post(
    "/v2/models/{name}/infer",
    summary="Infer",
    response_model=InferResponse,
    responses=_RESPONSES,
    openapi_extra=_OPENAPI,
)
async def infer(request: Request, name: str, version: str | None = None) -> Response:
    """Run the network on tensors, or on encoded images (`BYTES`), which are decoded and preprocessed here.

    Each image of a batch runs on one core, and is recorded like a request of its own.
    """
    deadline = deadline_for(request)
    model = served_model(request, name, version)
    _refuse_encoding(request)
    bounds, runner = app_part(request, Bounds), app_part(request, BatchRunner)
    body = await in_time(read_body(request, bounds.body_bytes), deadline)
    length = json_length(body, request.headers.get(HEADER_LENGTH))

    def parsed() -> tuple[InferRequest, Batch, Plan]:
        asked, binary = read_request(body, length)
        batch = read_batch(asked, binary, model.card.input, runner.max_batch)
        return asked, batch, _plan(asked, model, batch)

    if length <= _PARSED_AT_ONCE_BYTES:
        asked, batch, plan = parsed()
    else:
        asked, batch, plan = await runner.pool.run(parsed, deadline)
    results, durations = await runner.run(plan, batch, deadline)
    return write_response(asked, model, plan.wanted, results, durations)


def _plan(asked: InferRequest, model: ServedModel, batch: Batch) -> Plan:
    wanted = wanted_outputs(asked, model.card, len(batch), images=isinstance(batch, list))
    finds = model.card.detection is not None and any(one.output.role is None for one in wanted)
    return Plan(model, wanted, _detect_plan(asked, model) if finds else None)


def _detect_plan(asked: InferRequest, model: ServedModel) -> DetectPlan:
    """Return how to find objects, from those parameters of the request that POST /detect has too.

    Raises InvalidInferenceRequest and InvalidParameter.
    """
    given = asked.parameters
    score, most, classes = (given.get(name) for name in ("min_score", "max_detections", "classes"))
    for name, value, kinds, words in (
        ("min_score", score, (int, float), "a number"),
        ("max_detections", most, (int,), "a whole number"),
        ("classes", classes, (str,), "a text of labels or class ids, separated by commas"),
    ):
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise InvalidInferenceRequest(f"parameter '{name}': {shown(value)} (allowed: {words})")
    if classes is not None and len(classes) > _MOST_CLASSES_CHARACTERS:
        raise InvalidInferenceRequest(
            f"parameter 'classes': {len(classes)} characters (limit: {_MOST_CLASSES_CHARACTERS})"
        )
    return detect_plan(model, score, most, None if classes is None else comma_list(classes))


def _refuse_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding[:50]!r}: not supported (allowed: identity; encoded images are "
            "compressed already)"
        )
