"""Refuses work that there is no room for before anything else is spent on it.

At several times the load that a machine can carry, most requests are refusals, and what each costs is taken
from those that are answered. So a full queue is looked for here, ahead of routing and of the parameters.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.body.stream import is_form
from service.api.problems import problem_of
from service.errors import QueueFull, WeighinError
from service.inference.pool import CorePool
from service.inference.registry import Registry


class LoadShedding:
    """Pure ASGI middleware: a POST to one of `paths` gets 503 at once while the queue of `pool` is full.

    The paths in `counted` name one model in their query; the refusal is counted as that model's. A form may
    name it too: it is not read, so without one in the query the refusal is counted under no model. A request
    for a model that is not there passes, to be told so.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        pool: CorePool,
        registry: Registry,
        paths: Collection[str],
        counted: Collection[str],
    ) -> None:
        self._app = app
        self._pool = pool
        self._registry = registry
        self._paths = frozenset(paths)
        self._counted = frozenset(counted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await problem_of(scope["state"]["request_id"], refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> QueueFull | None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["method"] != "POST" or path not in self._paths:
            return None
        try:
            self._pool.ensure_capacity()
        except QueueFull as full:
            if path in self._counted:
                named = parse_qs(scope["query_string"].decode("latin-1")).get("model", [None])[-1]
                if named is None and is_form(Request(scope)):
                    return full
                try:
                    model = self._registry.get(named)
                except WeighinError:
                    return None
                scope["state"]["model"] = model.name
            return full
        return None
