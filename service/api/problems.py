"""Convert errors, including FastAPI's own, to RFC 9457 problem documents.

Under /v2, errors have the form of the Open Inference Protocol instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from service import errors
from service.api.body.request import route_path

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[errors.WeighinError], tuple[int, str]] = {
    errors.MalformedRequest: (400, "Malformed request"),
    errors.InvalidInferenceRequest: (400, "Invalid inference request"),
    errors.Unauthorized: (401, "Key needed"),
    errors.CrossSiteRequest: (403, "Request from another site"),
    errors.NoKeySet: (403, "No key set"),
    errors.UnknownModel: (404, "Unknown model"),
    errors.UnknownBenchmark: (404, "Unknown benchmark"),
    errors.UnknownEvaluation: (404, "Unknown evaluation"),
    errors.UnknownImage: (404, "Unknown image"),
    errors.RequestTimeout: (408, "Request timeout"),
    errors.BenchmarkEnded: (409, "Benchmark has ended"),
    errors.OtherModel: (409, "Other model"),
    errors.OtherTask: (409, "Other task"),
    errors.NoExactMap: (409, "No exact map"),
    errors.ModelInUse: (409, "Model in use"),
    errors.ModelExists: (409, "Model exists"),
    errors.BodyTooLarge: (413, "Body too large"),
    errors.TooManyPixels: (413, "Too many pixels"),
    errors.UnknownImageType: (415, "Unknown image type"),
    errors.UnsupportedEncoding: (415, "Unsupported encoding"),
    errors.EmptyBody: (422, "Empty body"),
    errors.UndecodableImage: (422, "Undecodable image"),
    errors.InvalidParameter: (422, "Invalid parameter"),
    errors.InvalidBundle: (422, "Invalid bundle"),
    errors.InvalidEvaluation: (422, "Invalid evaluation"),
    errors.RefusedModel: (422, "Refused model"),
    errors.HeadersTooLarge: (431, "Headers too large"),
    errors.ClientGone: (499, "Client closed the connection"),
    errors.MeasurementFailed: (500, "Measurement failed"),
    errors.QueueFull: (503, "Queue full"),
    errors.Busy: (503, "Busy"),
    errors.NotReady: (503, "Not ready"),
    errors.DatabaseUnreachable: (503, "Database unreachable"),
    errors.ModelUnavailable: (503, "Model unavailable"),
    errors.DeadlineExceeded: (504, "Deadline exceeded"),
    errors.StorageUnavailable: (507, "State cannot be written"),
    errors.GalleryFull: (507, "Gallery full"),
}
"""HTTP status and title of every expected error."""

INTERNAL_ERROR = "internal-error"
"""Slug of unexpected errors."""

_BODY_UNREAD = (errors.BodyTooLarge, errors.DeadlineExceeded)

RETRY_AFTER_S = 1
"""Seconds in the header Retry-After of responses with status 503.

One second is enough, because a full queue empties in less time.
"""


class Problem(BaseModel):
    """An error as an RFC 9457 problem document."""

    type: str = Field(description="Stable name of the kind of error", examples=["unknown-model"])
    title: str = Field(description="Title of the kind of error", examples=["Unknown model"])
    status: int = Field(description="HTTP status", examples=[404])
    detail: str = Field(
        description="The problem, with the value that was given and the allowed ones",
        examples=["model 'resnet': unknown (allowed: efficientnet-lite0, efficientnet-lite0-int8)"],
    )
    request_id: str = Field(description="Also in X-Request-ID and in the log", examples=["01J9ZQ5T3M"])
    models: list[str] | None = Field(default=None, description="With `unknown-model`: all served models")


class ProtocolError(BaseModel):
    """An error in the form of the Open Inference Protocol."""

    error: str = Field(
        description="The problem, with the value that was given and the allowed ones",
        examples=["input 'image': shape [1, 3, 32, 32] (allowed: [-1, 3, 224, 224])"],
    )


_SCHEMA, _PROTOCOL_SCHEMA = (
    {"$ref": f"#/components/schemas/{model.__name__}"} for model in (Problem, ProtocolError)
)
"""References to the schemas of error documents in OpenAPI.

If FastAPI got the classes as `model` instead, it would build a schema for every error.
"""


class ProblemResponse(Response):
    """A problem document as a response.

    When the response is sent, it stores the problem's slug in the request's state as `problem`.
    """

    def __init__(
        self, slug: str, detail: str, content: bytes, status: int, headers: dict[str, str] | None
    ) -> None:
        super().__init__(content, status, headers, MEDIA_TYPE)
        self._slug = slug
        self._detail = detail

    def take_form_for(self, scope: Mapping[str, Any]) -> None:
        """Change to the form of the Open Inference Protocol if the request is for a route under /v2."""
        if not f"{route_path(scope)}/".startswith("/v2/"):
            return
        self.body = orjson.dumps({"error": self._detail})
        self.headers["Content-Length"] = str(len(self.body))
        self.headers["Content-Type"] = "application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["problem"] = self._slug
        self.take_form_for(scope)
        await super().__call__(scope, receive, send)


def problem(
    request_id: str,
    status: int,
    slug: str,
    title: str,
    detail: str,
    extensions: Mapping[str, object] = MappingProxyType({}),
) -> ProblemResponse:
    """Return a problem document as a response. With status 503, the response has the header Retry-After."""
    body = {"type": slug, "title": title, "status": status, "detail": detail, "request_id": request_id}
    body |= extensions
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return ProblemResponse(slug, detail, orjson.dumps(body), status, headers)


def problem_of(request_id: str, error: errors.WeighinError) -> ProblemResponse:
    """Return the problem document of an expected error."""
    status, title = STATUS[type(error)]
    response = problem(request_id, status, error.slug, title, error.detail, error.extensions)
    if isinstance(error, errors.Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="weighin"'
    if isinstance(error, _BODY_UNREAD):
        # otherwise the server would read and discard the rest of the body, however long
        response.headers["Connection"] = "close"
    return response


def documented(*kinds: type[errors.WeighinError], protocol: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI `responses` for the errors that an endpoint can raise.

    `protocol`: whether the endpoint belongs to the Open Inference Protocol.
    """
    media_type, schema = ("application/json", _PROTOCOL_SCHEMA) if protocol else (MEDIA_TYPE, _SCHEMA)
    responses: dict[int | str, dict[str, Any]] = {}
    if errors.StorageUnavailable in kinds and errors.DatabaseUnreachable not in kinds:
        kinds = (*kinds, errors.DatabaseUnreachable)
    for kind in kinds:
        status, title = STATUS[kind]
        entry = responses.setdefault(
            status, {"description": "", "content": {media_type: {"schema": schema, "examples": {}}}}
        )
        entry["description"] = "; ".join(filter(None, [entry["description"], f"{title} (`{kind.slug}`)"]))
        words = (kind.__doc__ or title).strip()
        example = {"type": kind.slug, "title": title, "status": status, "detail": words}
        example |= {"request_id": "7f9c2ba4e88f827d"}
        entry["content"][media_type]["examples"][kind.slug] = {
            "summary": words,
            "value": {"error": words} if protocol else example,
        }
    return responses


def install(app: FastAPI) -> None:
    """Register handlers that convert expected errors to problem documents.

    The documents are also described in OpenAPI. `RequestContext` handles unexpected errors.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _describe_problem(generate())
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]

    @app.exception_handler(errors.WeighinError)
    async def expected(request: Request, error: errors.WeighinError) -> Response:
        return problem_of(request.state.request_id, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return problem_of(request.state.request_id, errors.InvalidParameter(_in_words(error)))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        slug = phrase.lower().replace(" ", "-")
        path = request.url.path[:200]
        headers = dict(error.headers or {})
        detail = str(error.detail)
        if error.status_code == HTTPStatus.NOT_FOUND:
            detail = f"path {path}: not found"
            if path.endswith("/") and _allowed_methods(request, request.scope["path"].rstrip("/")):
                detail += f" (did you mean {path.rstrip('/')}?)"
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_allowed_methods(request, request.scope["path"]))
            detail = f"{request.method} {path}: method not allowed (allowed: {headers['Allow']})"
        response = problem(request.state.request_id, error.status_code, slug, phrase, detail)
        response.headers.update(headers)
        return response


def _allowed_methods(request: Request, path: str) -> list[str]:
    """Return the methods of all routes at `path`.

    Starlette itself knows only the methods of a single route.
    """
    routes = request.app.router.routes
    methods = [
        method
        for method in ("GET", "POST", "PUT", "DELETE")
        if any(
            route.matches({**request.scope, "method": method, "path": path})[0] is Match.FULL
            for route in routes
        )
    ]
    return ["GET", "HEAD", *methods[1:]] if methods[:1] == ["GET"] else methods


def _describe_problem(document: dict[str, Any]) -> None:
    """Add the schemas that `documented` refers to."""
    schemas = document["components"]["schemas"]
    for model in (Problem, ProtocolError):
        schemas[model.__name__] = model.model_json_schema(mode="serialization")
    document["components"]["schemas"] = dict(sorted(schemas.items()))


def _in_words(error: RequestValidationError) -> str:
    def sentence(detail: dict[str, Any]) -> str:
        name = ".".join(str(part) for part in detail["loc"] if part not in ("query", "body", "path"))
        value = detail.get("input")
        given = f" (given: {str(value)[:100]!r})" if isinstance(value, str | int | float) else ""
        return f"{name}: {detail['msg'][:1].lower()}{detail['msg'][1:]}{given}"

    return "; ".join(sentence(detail) for detail in error.errors())
