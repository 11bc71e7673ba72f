"""What every request passes: its id, safe headers, cross-site refusal, request log, HEAD, error counting."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Collection, Mapping
from urllib.parse import parse_qs

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.api.body.image import IMAGE_ERRORS
from service.api.problems import INTERNAL_ERROR, STATUS, problem, problem_of
from service.inference.registry import Registry, ServedModel
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder
from service.text.origins import ANY, is_own, parse_origin

log = structlog.get_logger("service.request")

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOKED_AT = frozenset({b"x-request-id", b"origin", b"sec-fetch-site", b"host"})
_ALL_METHODS = {"Allow": "GET, HEAD, POST, PUT, DELETE, OPTIONS"}
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")

MODEL_PATHS = frozenset({"classify", "compare", "explain", "retrieve-similar", "gallery"})
"""First segments of the paths that run networks: their errors are also recorded beside latency."""

_NO_ROUTE = "not-found"
_WITHOUT_MODEL = frozenset({kind.slug for kind in STATUS} | {INTERNAL_ERROR, "method-not-allowed"})
_OTHER_MODEL_ERRORS = (
    errors.NoExactMap,
    errors.OtherModel,
    errors.Busy,
    errors.ClientGone,
    errors.DatabaseUnreachable,
    errors.StorageUnavailable,
)
_WITH_MODEL = frozenset({kind.slug for kind in (*IMAGE_ERRORS, *_OTHER_MODEL_ERRORS)} | {INTERNAL_ERROR})


def new_request_id() -> str:
    """A random request id. It is no secret, and asking the kernel for one would let a busy thread in."""
    return f"{random.getrandbits(64):016x}"


def identifying_headers(request_id: str) -> list[tuple[bytes, bytes]]:
    """The header fields that every response carries."""
    return [(b"x-request-id", request_id.encode("latin-1")), _NO_SNIFFING]


def route_path(scope: Scope) -> str:
    """Return the request's path without the prefix that a proxy adds."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class RequestContext:
    """Pure ASGI middleware around the whole application.

    Every request gets `scope["state"]["request_id"]` (the client's X-Request-ID if it is sane, else a random
    one), and every response carries it. An exception that nothing else handled is logged with it and becomes
    a problem document without internal details. A request cancelled by the stopping server gets 503.
    """

    def __init__(self, app: ASGIApp, *, allowed_origins: Collection[str], log_requests: bool) -> None:
        self._app = app
        self._any_origin = ANY in allowed_origins
        self._allowed_origins = frozenset(map(parse_origin, allowed_origins)) - {None}
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _LOOKED_AT}
        given = headers.get(b"x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter_ns()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += identifying_headers(request_id)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                refusal = self._refusal(scope["method"], headers, scope["state"].get("forwarded_scheme"))
                if refusal is None and scope["path"] == "*":  # OPTIONS * asks about the whole server
                    await Response(status_code=204, headers=_ALL_METHODS)(scope, receive, send_with_headers)
                elif refusal is None:
                    await self._app(scope, receive, send_with_headers)
                else:
                    await problem_of(request_id, refusal)(scope, receive, send_with_headers)
            except asyncio.CancelledError:
                # only the server cancels requests: those that outlast its grace when it stops
                if status:
                    raise
                stopping = errors.NotReady("the service is stopping")
                await problem_of(request_id, stopping)(scope, receive, send_with_headers)
            except Exception as error:
                log.error("unexpected error", path=scope["path"], exc_info=error)
                if status:
                    raise
                detail = "something went wrong here; the request id finds it in the log"
                response = problem(request_id, 500, INTERNAL_ERROR, "Internal error", detail)
                await response(scope, receive, send_with_headers)
            if self._log_requests:
                elapsed = round((time.perf_counter_ns() - started) / 1e6, 3)
                log.info("request", method=scope["method"], path=scope["path"], status=status, ms=elapsed)

    def _refusal(
        self, method: str, headers: Mapping[bytes, str], scheme: str | None
    ) -> errors.CrossSiteRequest | None:
        """Refuse what a browser sends for another site's page; other clients send neither of the headers.

        `scheme` is that of the public address, where a trusted proxy says it.
        """
        if method in _SAFE_METHODS:
            return None
        given, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        if (given is None and site is None) or self._any_origin:
            return None
        origin = None if given is None else parse_origin(given)
        if origin in self._allowed_origins:
            return None
        if site is not None:
            same = site in ("same-origin", "none")
        else:
            same = origin is not None and is_own(origin, headers.get(b"host", ""), scheme)
        if same:
            return None
        return errors.CrossSiteRequest(f"a page of {(given or 'another site')[:100]} may not {method} here")


class HeadRequests:
    """Pure ASGI middleware: HEAD gets the status and header that GET would, without the body.

    A stream is ended before its first event: the application gets a disconnect.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        ended = False

        async def send_without_body(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                await send(message)
            elif not ended:
                ended = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await asyncio.sleep(0)  # a stream that never waits is to learn of its end too

        async def receive_until_answered() -> Message:
            return {"type": "http.disconnect"} if ended else await receive()

        await self._app({**scope, "method": "GET"}, receive_until_answered, send_without_body)


def series_to_show(models: Collection[str]) -> list[tuple[str, str]]:
    """Model and kind of each error that can happen: a counter that starts at its first error hides it from
    Prometheus' `increase`."""
    pairs = [("", kind) for kind in sorted(_WITHOUT_MODEL)]
    return pairs + [(model, kind) for model in models for kind in sorted(_WITH_MODEL)]


def note_model(request: Request, model: str) -> None:
    """Count the request under this model should it fail; the name must be validated."""
    request.state.model = model


def find_model(request: Request, registry: Registry, name: str | None) -> ServedModel:
    """Return the model of that name, or the default one, and count the request under it should it fail.

    Raises UnknownModel, NotReady, ModelUnavailable, and what kept a form from being read.
    """
    form = getattr(request.state, "form", None)
    if name is None and form is not None and form.unread:
        raise form.problem  # it may name a model
    note_model(request, registry.entry(registry.default_model if name is None else name).name)
    return registry.get(name)


def query_model(scope: Scope) -> str | None:
    """Return the model that the query names, whether there is one of that name or not."""
    names = parse_qs(scope["query_string"].decode("latin-1")).get("model")
    return names[-1] if names else None


class ErrorCounting:
    """Pure ASGI middleware around all others: counts each problem document that is sent, once.

    A request that the connection refused while its body came in counts by that refusal. Counted under the
    model that a route noted (`note_model`), else under the one that the query or the form names if there is
    one of that name, else under none. A path that no route has is not counted.
    """

    def __init__(self, app: ASGIApp, *, registry: Registry, recorder: Recorder, metrics: Metrics) -> None:
        self._app = app
        self._registry = registry
        self._recorder = recorder
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        try:
            await self._app(scope, receive, send)
        except Exception:  # after the response began, or the server's own
            self._count(scope, INTERNAL_ERROR)
            raise
        slug = scope["state"].get("refused") or scope["state"].get("problem")
        if slug is not None and slug != _NO_ROUTE:
            self._count(scope, slug)

    def _count(self, scope: Scope, slug: str) -> None:
        route = route_path(scope).strip("/").partition("/")[0]
        if route not in MODEL_PATHS:
            self._metrics.count_error(None, slug)
            return
        model = scope["state"].get("model") or self._named(scope)
        self._recorder.record_error(model, "compare" if route == "compare" else "live", slug)

    def _named(self, scope: Scope) -> str | None:
        """The model that the query or the form names, if there is one of that name."""
        name = query_model(scope)
        form = scope["state"].get("form")
        if name is None and form is not None:
            name = form.fields.get("model")
        return name if name in self._registry.names() else None
