"""Code shared by routes that take an image: read the image, report its facts and the timings.

The image is the raw body or the form part `image`, up to a size limit.

A form may also contain the route's parameters as fields. The fields are merged into the query parameters
before validation, so that both are validated alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from service import errors
from service.api.body.parts import Part, Parts
from service.api.body.request import (
    MAX_KEPT,
    MAX_KEPT_BYTES,
    Body,
    Bounds,
    app_part,
    content_type_of,
    in_time,
    is_form,
    media_type_of,
    query_parameters,
    read_body,
    refuse_unknown_parameters,
)
from service.inference.decoding.decode import DecodedImage
from service.inference.pool import Deadline
from service.latency.stages import Durations, milliseconds

PART = "image"

MAX_FIELD_BYTES = 16_384
"""Maximum bytes of a form field that is a parameter."""

MAX_PARTS = 100
"""Maximum number of parts in a form that contains one image."""

OPENAPI_BODY = {
    "requestBody": {
        "required": True,
        "description": "The image: as the raw body (any content type), or as a file part named `image`. "
        "Form fields may replace query parameters.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [PART],
                    "properties": {PART: {"type": "string", "format": "binary"}},
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
"""OpenAPI description of the body. FastAPI cannot derive it, because the handlers stream the body."""

IMAGE_ERRORS = (
    errors.MalformedRequest,
    errors.CrossSiteRequest,
    errors.BodyTooLarge,
    errors.TooManyPixels,
    errors.UnknownImageType,
    errors.EmptyBody,
    errors.UndecodableImage,
    errors.InvalidParameter,
    errors.QueueFull,
    errors.NotReady,
    errors.ModelUnavailable,
    errors.DeadlineExceeded,
)
"""Errors of every route that runs a network on a posted image, as arguments of `documented`."""

SEND = "send the image's bytes, or a form (multipart/form-data) with a file part named 'image'"

_URLENCODED = re.compile(rb"[\w.~+*%-]+=[\w.~+*%&=-]*")


RUNTIME = Field(description="Runtime that ran the network", examples=["onnxruntime"])
PRECISION = Field(
    description="Precision of the run: the precision in the model's card, `bf16` or `int8+bf16`",
    examples=["int8"],
)


class ImageFacts(BaseModel):
    """The posted image, as displayed (EXIF orientation applied)."""

    width: int = Field(description="Pixels", examples=[451])
    height: int = Field(description="Pixels", examples=[300])
    format: str = Field(description="Format, detected from the file signature", examples=["jpeg"])
    bytes: int = Field(examples=[34213])


class ClassifyTimings(BaseModel):
    """Milliseconds per stage.

    `total` is the sum of the stages: the time from the complete body to the finished response.
    """

    queue: float = Field(description="Waiting for a core", examples=[0.041])
    decode: float = Field(description="Bytes to RGB pixels", examples=[0.652])
    preprocess: float = Field(description="Resize, crop, normalise", examples=[0.114])
    inference: float = Field(description="Run of the network", examples=[1.874])
    postprocess: float = Field(description="Softmax and labels", examples=[0.031])
    total: float = Field(examples=[2.712])


@dataclass
class Form:
    """A form with an image, which is read before the route runs.

    `fields`: the route's parameters that the form contains, by name. `problem`: the first error that was
    found in the form, or None.
    """

    deadline: Deadline
    image: bytes = b""
    fields: dict[str, str] = field(default_factory=dict)
    problem: errors.WeighinError | None = None

    @property
    def unread(self) -> bool:
        """Whether reading stopped before the end of the form. The unread rest may contain more fields."""
        return isinstance(self.problem, (errors.BodyTooLarge, errors.DeadlineExceeded, errors.ClientGone))


class ImageRoute(APIRoute):
    """A route with an image: its endpoint takes the request and parameters, and returns a Response.

    FastAPI documents the route and validates its parameters; the valid parameters are reused for requests
    with the same query and form fields. FastAPI does not call the endpoint, because its way of calling one
    would take more time on the event loop than any other step.

    The fields of a form are merged into the query parameters first. If the form has a problem, `read_image`
    raises it later: invalid query parameters are then reported first, as they are with a raw body. The valid
    fields of such a form are still used, so that the error is counted under the right model.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        needs = self.dependant
        if [dependency.call for dependency in needs.dependencies] != [refuse_unknown_parameters] or (
            needs.path_params or needs.cookie_params or needs.body_params or needs.response_param_name
        ):
            raise TypeError(f"{self.path}: allowed are parameters of the query and header fields only")
        self._valid: dict[tuple[bytes, tuple[tuple[str, str], ...]], dict[str, Any]] = {}
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        await refuse_unknown_parameters(request)
        form = await _read_form(request) if is_form(request) else None
        endpoint = self.dependant.call
        assert endpoint is not None
        response = await endpoint(request, **self._parameters(request, form))
        await response(scope, receive, send)

    def _parameters(self, request: Request, form: Form | None) -> dict[str, Any]:
        """Return the validated parameters by name. Raises RequestValidationError."""
        query: bytes = request.scope["query_string"]
        fields = () if form is None else tuple(form.fields.items())
        values = self._valid.get((query, fields))
        problems: list[Any] = []
        if values is None:
            values, problems = request_params_to_args(self.dependant.query_params, request.query_params)
            if not problems and len(query) + sum(map(len, chain(*fields))) <= MAX_KEPT_BYTES:
                if len(self._valid) >= MAX_KEPT:
                    self._valid.clear()
                self._valid[query, fields] = values
        headers, header_problems = request_params_to_args(self.dependant.header_params, request.headers)
        if problems or header_problems:
            raise RequestValidationError([*problems, *header_problems])
        return values | headers


async def _read_form(request: Request) -> Form:
    """Read a form and merge its fields into the query parameters.

    If the form has an error, the error is not raised, but stored in `problem` of the returned form.
    """
    bounds = app_part(request, Bounds)
    deadline = Deadline.after(bounds.deadline_s)
    form = request.state.form = Form(deadline)
    parts: list[Part] = []
    try:
        await in_time(_read_parts(request, parts, bounds.body_bytes), deadline)
        form.image = _image_of(parts)
    except errors.WeighinError as error:
        form.problem = error
    problem = _read_fields(request, form, [part for part in parts if part.name != PART])
    form.problem = form.problem or problem
    return form


async def read_image(request: Request, deadline: Deadline) -> bytes:
    """Return the bytes of the posted image.

    Raises BodyTooLarge, DeadlineExceeded, ClientGone and EmptyBody. Raises MalformedRequest if the form is
    malformed or does not have exactly one image, InvalidParameter for a part that is not a parameter of the
    route, and UnknownImageType for a form whose media type is not multipart/form-data.
    """
    form: Form | None = getattr(request.state, "form", None)
    if form is None:
        data = await in_time(read_body(request, app_part(request, Bounds).body_bytes), deadline)
        _check_kind(request, data)
    elif form.problem is not None:
        raise form.problem
    else:
        data = form.image
    if not data:
        raise errors.EmptyBody
    return data


def timed_answer(body: dict[str, Any], durations: Durations) -> Response:
    """Return `body` as a JSON response with `durations` in the Server-Timing header."""
    timing = ", ".join(f"{stage};dur={nanoseconds / 1e6:.3f}" for stage, nanoseconds in durations.items())
    return Response(orjson.dumps(body), headers={"Server-Timing": timing}, media_type="application/json")


def image_facts(image: DecodedImage) -> dict[str, Any]:
    """Return the facts of an image as the JSON object that `ImageFacts` describes."""
    return {"width": image.width, "height": image.height, "format": image.format, "bytes": image.bytes}


def timings(durations: Durations) -> dict[str, float]:
    """Convert the durations of the stages from nanoseconds to milliseconds."""
    return {stage: milliseconds(nanoseconds) for stage, nanoseconds in durations.items()}


def document_form_fields(app: FastAPI) -> None:
    """For each route that takes an image, also document its query parameters as form fields in OpenAPI."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        fresh = app.openapi_schema is None
        document = generate()
        if fresh:
            for operations in document["paths"].values():
                for operation in operations.values():
                    _describe_fields(operation)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_fields(operation: dict[str, Any]) -> None:
    content = operation.get("requestBody", {}).get("content", {})
    properties = content.get("multipart/form-data", {}).get("schema", {}).get("properties", {})
    if PART not in properties or properties[PART].get("type") != "string":
        return
    own = dict(properties)  # a copy, because all routes share the schema
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "query":
            description = {"description": parameter["description"]} if "description" in parameter else {}
            own.setdefault(parameter["name"], {**parameter["schema"], **description})
    schema = content["multipart/form-data"]["schema"]
    operation["requestBody"] = {
        **operation["requestBody"],
        "content": {**content, "multipart/form-data": {"schema": {**schema, "properties": own}}},
    }


def _check_kind(request: Request, data: bytes) -> None:
    """Raise UnknownImageType if the body is a form, not an image.

    For an urlencoded form, the media type alone is not enough, because curl sends any file with this media
    type: the bytes must look like such a form, too.
    """
    media_type = media_type_of(request)
    is_other_form = media_type.startswith("multipart/") or (
        media_type == "application/x-www-form-urlencoded" and _URLENCODED.fullmatch(data[:1000]) is not None
    )
    if is_other_form:
        raise errors.UnknownImageType(f"body: {media_type[:80]} is not an image ({SEND})")


async def _read_parts(request: Request, parts: list[Part], max_bytes: int) -> None:
    """Read the form; append each part to `parts` once it is complete."""
    limits = {PART: max_bytes} | dict.fromkeys(query_parameters(request), MAX_FIELD_BYTES)
    reader = Parts(content_type_of(request), limits)
    body = Body(request, max_bytes)
    while (chunk := await body.chunk()) is not None:
        try:
            reader.feed(chunk)
        finally:
            parts += reader.finished()
        if len(parts) > MAX_PARTS:
            raise errors.MalformedRequest(f"multipart form: more than {MAX_PARTS} parts")
    reader.check_complete()


def _image_of(parts: list[Part]) -> bytes:
    images = [part.data for part in parts if part.name == PART]
    if len(images) != 1 or images[0] is None:
        names = ", ".join(f"'{part.name[:50]}'" for part in parts[:10]) or "none"
        raise errors.MalformedRequest(f"multipart form: parts {names} (needed: one named '{PART}')")
    return images[0]


def _read_fields(request: Request, form: Form, parts: list[Part]) -> errors.WeighinError | None:
    """Store the fields in `form` and merge them into the query parameters, which FastAPI validates next.

    Empty fields are ignored, because HTML forms send all fields. Returns the problem of the first invalid
    field, or None if all fields are valid.
    """
    if not parts:
        return None
    known = query_parameters(request)
    query = request.query_params
    problem: errors.WeighinError | None = None
    names: set[str] = set()
    for part in parts:
        try:
            value = _text(part, known, repeated=part.name in names)
            names.add(part.name)
            if not value.strip():
                continue
            if part.name in query and query[part.name] != value:
                raise errors.InvalidParameter(
                    f"{part.name}: {query[part.name][:50]!r} in the query, {value[:50]!r} in the form "
                    "(allowed: one value)"
                )
            form.fields[part.name] = value
        except errors.InvalidParameter as error:
            problem = problem or error
    if form.fields:
        request._query_params = QueryParams({**query, **form.fields})
    return problem


def _text(part: Part, fields: frozenset[str], *, repeated: bool) -> str:
    """Return the text of the form field `part`. Raises InvalidParameter if the field is not allowed.

    `fields`: names of the allowed fields. `repeated`: whether the form has sent a field of this name before.
    """
    if part.name not in fields:
        allowed = ", ".join((PART, *sorted(fields)))
        raise errors.InvalidParameter(f"unknown form field {part.name[:50]!r} (allowed: {allowed})")
    if repeated:
        raise errors.InvalidParameter(f"form field {part.name!r}: given twice")
    if part.file:
        raise errors.InvalidParameter(
            f"form field {part.name!r}: sent as a file (allowed: without file name)"
        )
    if part.data is None:
        raise errors.InvalidParameter(
            f"form field {part.name!r}: {part.size} bytes (limit: {MAX_FIELD_BYTES})"
        )
    try:
        return part.data.decode()
    except UnicodeDecodeError:
        raise errors.InvalidParameter(f"form field {part.name!r}: not UTF-8") from None
