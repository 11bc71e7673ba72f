"""Refuse requests before their routes run.

Requests with an image are refused while the queue is full. Requests with JSON are refused if their body is
too large or arrives too slowly.

Under overload most requests are refused, and every refusal costs time that accepted requests need. So the
queue is checked before routing and before parameters are parsed.
"""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.zoo.card import Task
from service.api.body.request import in_time, is_form, read_body, route_path
from service.api.middleware.context import named_model
from service.api.problems import problem_of
from service.errors import QueueFull, WeighinError
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry

MAX_JSON_BYTES = 100_000
"""Maximum bytes of a JSON body."""

_IMAGE_ROUTES = re.compile(
    r"POST /(classify|compare|detect|explain|retrieve-similar)|PUT /gallery/images/[^/]+"
    r"|POST /v2/models/[^/]+(/versions/[^/]+)?/infer"
)
"""Routes with one image, or with a batch of images or tensors.

POST /gallery/images is not among them, because its images wait while the queue is full.
"""

_DEFAULT_TASKS: dict[str, Task] = {
    "/classify": "image-classification",
    "/detect": "object-detection",
    "/explain": "image-classification",
}
"""For each route that runs a task's default model if the request names no model: the task.

The other routes with images have no single default model.
"""
_JSON_ROUTES = frozenset({"/benchmarks"})


class LoadShedding:
    """Pure ASGI middleware: while the queue of `pool` is full, answer image requests with 503.

    A refusal is counted under the model that the query or the path names. If neither names a model, it is
    counted under the route's default model, with two exceptions, in which it is counted under no model: the
    route has no default model, or the body is a form, which may name a model, but is not read.

    Requests for models that are not served pass, so that the route reports the unknown model.
    """

    def __init__(self, app: ASGIApp, *, pool: CorePool, registry: Registry) -> None:
        self._app = app
        self._pool = pool
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await problem_of(scope["state"]["request_id"], refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> QueueFull | None:
        path = route_path(scope)
        if scope["method"] == "GET" or not _IMAGE_ROUTES.fullmatch(f"{scope['method']} {path}"):
            return None
        try:
            self._pool.ensure_capacity()
        except QueueFull as full:
            name = named_model(scope)
            if name is None and (path not in _DEFAULT_TASKS or is_form(Request(scope))):
                return full
            try:
                scope["state"]["model"] = self._registry.get(name, _DEFAULT_TASKS.get(path)).name
            except WeighinError:
                return None
            return full
        return None


class JsonBodies:
    """Pure ASGI middleware: read JSON bodies within limits of size and time.

    FastAPI itself reads bodies of any size.
    """

    def __init__(self, app: ASGIApp, *, deadline_s: float) -> None:
        self._app = app
        self._deadline_s = deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or route_path(scope) not in _JSON_ROUTES:
            await self._app(scope, receive, send)
            return
        try:
            reading = read_body(Request(scope, receive), MAX_JSON_BYTES)
            body = await in_time(reading, Deadline.after(self._deadline_s))
        except WeighinError as error:
            await problem_of(scope["state"]["request_id"], error)(scope, receive, send)
            return
        read = False

        async def receive_body() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_body, send)
