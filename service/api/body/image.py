"""What routes that take an image share: reading it from the body, and the answer's facts and timings.

The body is the image's raw bytes, or a form with the part `image`; it is cut off when too large.

A form may also have the route's parameters as fields. They are read ahead of the query parameters and put
among them, so that both are validated alike.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field
from starlette.datastructures import QueryParams

from service import errors
from service.api.body.parts import Part, Parts
from service.api.body.request import (
    Bounds,
    body_chunks,
    content_type_of,
    in_time,
    is_form,
    media_type_of,
    query_parameters,
    read_body,
)
from service.inference.decoding.decode import DecodedImage
from service.inference.pool import Deadline
from service.latency.stages import Durations, milliseconds

PART = "image"

MAX_FIELD_BYTES = 16_384
"""Bytes of a form field that is a parameter."""

MAX_PARTS = 100
"""Parts of a form that holds one image."""

OPENAPI_BODY = {
    "requestBody": {
        "required": True,
        "description": "The image: as the raw body (any content type), or as a file part named `image`. "
        "A form may have the query parameters as fields too.",
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
"""What FastAPI cannot derive: the handlers read the body themselves, as it comes in."""

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
"""Errors of every route that runs a network on a posted image, for `documented`."""

SEND = "send the image's bytes, or a form (multipart/form-data) with a file part named 'image'"

_URLENCODED = re.compile(rb"[\w.~+*%-]+=[\w.~+*%&=-]*")


class ImageFacts(BaseModel):
    """The posted image, as displayed (EXIF orientation applied)."""

    width: int = Field(description="Pixels", examples=[451])
    height: int = Field(description="Pixels", examples=[300])
    format: str = Field(description="What its bytes say it is", examples=["jpeg"])
    bytes: int = Field(examples=[34213])


class ClassifyTimings(BaseModel):
    """Milliseconds of each stage; `total` is their sum, from the complete body to the finished answer."""

    queue: float = Field(description="Waiting for a core", examples=[0.041])
    decode: float = Field(description="Bytes to RGB pixels", examples=[0.652])
    preprocess: float = Field(description="Resize, crop, normalise", examples=[0.114])
    inference: float = Field(description="The network", examples=[1.874])
    postprocess: float = Field(description="Softmax and labels", examples=[0.031])
    total: float = Field(examples=[2.712])


@dataclass
class Form:
    """A form that was read ahead of the route: its image and fields, and what is wrong with it."""

    deadline: Deadline
    image: bytes = b""
    fields: dict[str, str] = field(default_factory=dict)
    problem: errors.WeighinError | None = None

    @property
    def unread(self) -> bool:
        """Whether it was not read to its end, so that it may have more fields."""
        return isinstance(self.problem, (errors.BodyTooLarge, errors.DeadlineExceeded, errors.ClientGone))


def form_first(bounds: Bounds) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency for routes that take an image: it reads a form's fields as query parameters.

    What is wrong with the form is not raised here but by `read_image`: a query parameter that is wrong comes
    first, as it does with a raw body. The fields that are right are read all the same, so that the error is
    of the model that the form names.
    """

    async def read(request: Request) -> None:
        if not is_form(request):
            return
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

    return read


async def read_image(request: Request, bounds: Bounds, deadline: Deadline) -> bytes:
    """Return the bytes of the posted image.

    Raises BodyTooLarge, DeadlineExceeded when the body is not there in time, ClientGone, MalformedRequest for
    a broken form or one without the part, InvalidParameter for other parts than the route's parameters,
    EmptyBody, and UnknownImageType for a body of another kind.
    """
    form: Form | None = getattr(request.state, "form", None)
    if form is None:
        data = await in_time(read_body(request, bounds.body_bytes), deadline)
        _check_kind(request, data)
    elif form.problem is not None:
        raise form.problem
    else:
        data = form.image
    if not data:
        raise errors.EmptyBody
    return data


def timed_answer(body: dict[str, Any], durations: Durations) -> Response:
    """Return the body as JSON, with `durations` in the header Server-Timing."""
    timing = ", ".join(f"{stage};dur={nanoseconds / 1e6:.3f}" for stage, nanoseconds in durations.items())
    return Response(orjson.dumps(body), headers={"Server-Timing": timing}, media_type="application/json")


def image_facts(image: DecodedImage) -> dict[str, Any]:
    """Return an `ImageFacts` as JSON has it."""
    return {"width": image.width, "height": image.height, "format": image.format, "bytes": image.bytes}


def timings(durations: Durations) -> dict[str, float]:
    """Return the milliseconds of each stage."""
    return {stage: milliseconds(nanoseconds) for stage, nanoseconds in durations.items()}


def document_form_fields(app: FastAPI) -> None:
    """Make the OpenAPI document list the query parameters of routes that take an image as form fields too."""
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
    own = dict(properties)  # the schema is shared by all routes
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "query":
            described = {"description": parameter["description"]} if "description" in parameter else {}
            own.setdefault(parameter["name"], {**parameter["schema"], **described})
    schema = content["multipart/form-data"]["schema"]
    operation["requestBody"] = {
        **operation["requestBody"],
        "content": {**content, "multipart/form-data": {"schema": {**schema, "properties": own}}},
    }


def _check_kind(request: Request, data: bytes) -> None:
    """Say what to send where the body is certainly something else: by its media type and its bytes both, as
    curl sends any file as a urlencoded form."""
    media_type = media_type_of(request)
    other = media_type.startswith("multipart/") or (
        media_type == "application/x-www-form-urlencoded" and _URLENCODED.fullmatch(data[:1000]) is not None
    )
    if other:
        raise errors.UnknownImageType(f"the body is {media_type[:80]}, no image: {SEND}")


async def _read_parts(request: Request, parts: list[Part], max_bytes: int) -> None:
    """Read the form, and append each part to `parts` once it is complete."""
    limits = {PART: max_bytes} | dict.fromkeys(query_parameters(request), MAX_FIELD_BYTES)
    reader = Parts(content_type_of(request), limits)
    async for chunk in body_chunks(request, max_bytes):
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
        raise errors.MalformedRequest(f"the form needs one part named '{PART}'; its parts are: {names}")
    return images[0]


def _read_fields(request: Request, form: Form, parts: list[Part]) -> errors.WeighinError | None:
    """Put the fields into `form` and among the query parameters, which the route's own are read from next.

    An empty field is left out: HTML forms send all that they have. Returns what is wrong with the first one
    that cannot be taken.
    """
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
    """The value of a form field. Raises InvalidParameter."""
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
