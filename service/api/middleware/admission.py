"""Refuse requests before a route runs: images that the queue has no room for, JSON bodies over their limits.

At several times the load that a machine can carry, most requests are refusals, and what each costs is taken
from those that are answered. So the queue is looked at ahead of routing and of the parameters.
"""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.body.request import in_time, is_form, read_body
from service.api.middleware.context import query_model, route_path
from service.api.problems import problem_of
from service.errors import QueueFull, WeighinError
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry

MAX_JSON_BYTES = 100_000
"""Bytes of a JSON body."""

_IMAGE_ROUTES = re.compile(r"POST /(classify|compare|explain|retrieve-similar)|PUT /gallery/images/[^/]+")
"""Routes with one image. POST /gallery/images is not among them: its images wait until there is room."""

_DEFAULT_MODEL_ROUTES = frozenset({"/classify", "/explain"})
_JSON_ROUTES = frozenset({"/benchmarks"})


class LoadShedding:
    """Pure ASGI middleware: a request with an image gets 503 at once while the queue of `pool` is full.

    The refusal is counted under the model that the query names, or the default one where the route has one.
    A form may name another: it is not read, so without one in the query the refusal is counted under no
    model. A request for a model that is not served passes, to be told so.
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
            name = query_model(scope)
            if name is None and (path not in _DEFAULT_MODEL_ROUTES or is_form(Request(scope))):
                return full
            try:
                scope["state"]["model"] = self._registry.get(name).name
            except WeighinError:
                return None
            return full
        return None


class JsonBodies:
    """Pure ASGI middleware: read JSON bodies ahead, within limits; FastAPI would read any number of bytes."""

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
