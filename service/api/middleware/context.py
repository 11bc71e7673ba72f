"""Middleware of all requests: request id, safe headers, cross-site check, log, HEAD, error counting."""

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

from models.zoo.card import Task
from service import errors, logs
from service.api.body.image import IMAGE_ERRORS
from service.api.body.request import app_part, route_path
from service.api.problems import INTERNAL_ERROR, STATUS, problem, problem_of
from service.inference.loading import ServedModel
from service.inference.registry import Registry
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder
from service.text.origins import ANY, is_own, parse_origin

log = structlog.get_logger("service.request")

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_READ_HEADERS = frozenset({b"x-request-id", b"origin", b"sec-fetch-site", b"host"})
_ALL_METHODS = {"Allow": "GET, HEAD, POST, PUT, DELETE, OPTIONS"}
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")

MODEL_PATHS = frozenset({"classify", "compare", "detect", "explain", "retrieve-similar", "gallery", "v2"})
"""First path segments of the routes that run networks.

Errors of these routes are also recorded with the latencies. Under /v2, only the paths that match _INFER run
networks.
"""

_INFER = re.compile(r"v2/models/[^/]+(/versions/[^/]+)?/infer")
_PROTOCOL_MODEL = re.compile(r"/v2/models/([^/]+)(/.*)?")
_NO_ROUTE = "not-found"
_UNEXPECTED = {INTERNAL_ERROR, "method-not-allowed"}
_WITHOUT_MODEL = frozenset({kind.slug for kind in STATUS} | _UNEXPECTED)
_OTHER_MODEL_ERRORS = (
    errors.InvalidInferenceRequest,
    errors.UnsupportedEncoding,
    errors.UnknownModel,  # a version of it
    errors.NoExactMap,
    errors.OtherModel,
    errors.OtherTask,
    errors.Busy,
    errors.ClientGone,
    errors.DatabaseUnreachable,
    errors.StorageUnavailable,
)
_WITH_MODEL = frozenset({kind.slug for kind in (*IMAGE_ERRORS, *_OTHER_MODEL_ERRORS)} | _UNEXPECTED)


def new_request_id() -> str:
    """Return a random request id.

    The id is not a secret, so `os.urandom` is not needed. `os.urandom` would release the GIL, and the event
    loop would then wait until a busy thread gives the GIL back.
    """
    return f"{random.getrandbits(64):016x}"


def own_request_id(client_id: str) -> str:
    """Return the client's X-Request-ID if it is valid, else a random id."""
    return client_id if _VALID_ID.fullmatch(client_id) else new_request_id()


def identifying_headers(request_id: str) -> list[tuple[bytes, bytes]]:
    """Return the header fields that every response has."""
    return [(b"x-request-id", request_id.encode("latin-1")), _NO_SNIFFING]


class RequestContext:
    """Pure ASGI middleware around the whole application.

    Sets `scope["state"]["request_id"]` to the client's X-Request-ID if it is valid, else to a random id, and
    adds it to the response. Logs unhandled exceptions with this id, and answers them with a problem document
    without internal details. Requests that the stopping server cancels get 503.
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
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _READ_HEADERS}
        request_id = own_request_id(headers.get(b"x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter_ns()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += identifying_headers(request_id)
            await send(message)

        logs.request_id.set(request_id)  # not reset: each request has a task, and a context, of its own
        try:
            refusal = self._refusal(scope["method"], headers, scope["state"].get("forwarded_scheme"))
            if refusal is None and scope["path"] == "*":  # OPTIONS *, about the server as a whole
                await Response(status_code=204, headers=_ALL_METHODS)(scope, receive, send_with_headers)
            elif refusal is None:
                await self._app(scope, receive, send_with_headers)
            else:
                await problem_of(request_id, refusal)(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            # only the server cancels requests: those still running after its grace period
            if status:
                raise
            stopping = errors.NotReady("service: stopping")
            await problem_of(request_id, stopping)(scope, receive, send_with_headers)
        except Exception as error:
            log.error("unexpected error", path=scope["path"], exc_info=error)
            if status:
                raise
            detail = "unexpected error (search the log for the request id)"
            response = problem(request_id, 500, INTERNAL_ERROR, "Internal error", detail)
            await response(scope, receive, send_with_headers)
        if self._log_requests:
            elapsed = round((time.perf_counter_ns() - started) / 1e6, 3)
            log.info("request", method=scope["method"], path=scope["path"], status=status, ms=elapsed)

    def _refusal(
        self, method: str, headers: Mapping[bytes, str], scheme: str | None
    ) -> errors.CrossSiteRequest | None:
        """Return an error if a page of another site made a browser send the request, else None.

        Clients other than browsers send neither `Origin` nor `Sec-Fetch-Site`. `scheme`: scheme of the public
        URL if a trusted proxy sent it, else None.
        """
        if method in _SAFE_METHODS:
            return None
        origin_header, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        if (origin_header is None and site is None) or self._any_origin:
            return None
        origin = None if origin_header is None else parse_origin(origin_header)
        if origin in self._allowed_origins:
            return None
        if site is not None:
            same = site in ("same-origin", "none")
        else:
            same = origin is not None and is_own(origin, headers.get(b"host", ""), scheme)
        if same:
            return None
        source = (origin_header or "another site")[:100]
        return errors.CrossSiteRequest(f"{method} from a page of {source}: cross-site request refused")


class HeadRequests:
    """Pure ASGI middleware: answer HEAD with the status and headers of GET, without the body.

    A stream ends before its first event, because the application receives a disconnect.
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
                await asyncio.sleep(0)  # let a stream that never waits receive the disconnect

        async def receive_until_answered() -> Message:
            return {"type": "http.disconnect"} if ended else await receive()

        await self._app({**scope, "method": "GET"}, receive_until_answered, send_without_body)


def possible_errors(models: Collection[str]) -> list[tuple[str, str]]:
    """Return the model and the slug of every possible error, so that all counters exist from the start.

    Prometheus' `increase` would miss an error that creates its counter.
    """
    pairs = [("", kind) for kind in sorted(_WITHOUT_MODEL)]
    return pairs + [(model, kind) for model in models for kind in sorted(_WITH_MODEL)]


def note_model(request: Request, model: str) -> None:
    """Count the request under `model`, a validated name, if the request fails."""
    request.state.model = model


def find_model(request: Request, name: str | None, task: Task = "image-classification") -> ServedModel:
    """Return the model `name`, or the task's default model if `name` is None.

    If the request fails, it is counted under this model.

    Raises UnknownModel, OtherTask, NotReady, ModelUnavailable, and the problem of a form that was not read to
    its end.
    """
    form = getattr(request.state, "form", None)
    if name is None and form is not None and form.unread:
        raise form.problem  # the unread rest may name a model
    registry = app_part(request, Registry)
    note_model(request, registry.entry(name, task).name)
    return registry.get(name, task)


def named_model(scope: Scope) -> str | None:
    """Return the model name in a path of /v2 or in the query, or None if neither contains one.

    The name may be that of an unknown model.
    """
    in_path = _PROTOCOL_MODEL.fullmatch(route_path(scope))
    if in_path is not None:
        return in_path[1]
    names = parse_qs(scope["query_string"].decode("latin-1")).get("model")
    return names[-1] if names else None


class ErrorCounting:
    """Outermost pure ASGI middleware: counts every problem document once.

    The error `client-gone` of /dashboard and of the paths under it is not counted. If the connection refuses
    a request while its body arrives, the refusal is counted. An error is counted under the model that the
    route noted (`note_model`). If the route noted none, it is counted under the known model that the path,
    query or form names, or under no model. Paths without a route are not counted.
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
        except Exception:  # raised after the response has started, or raised by the server
            self._count(scope, INTERNAL_ERROR)
            raise
        slug = scope["state"].get("refused") or scope["state"].get("problem")
        if slug is not None and slug != _NO_ROUTE:
            self._count(scope, slug)

    def _count(self, scope: Scope, slug: str) -> None:
        path = route_path(scope).strip("/")
        route = path.partition("/")[0]
        if route not in MODEL_PATHS or (route == "v2" and not _INFER.fullmatch(path)):
            if (route, slug) != ("dashboard", errors.ClientGone.slug):  # leaving a page is no error
                self._metrics.count_error(None, slug)
            return
        model = scope["state"].get("model") or self._named(scope)
        self._recorder.record_error(model, "compare" if route == "compare" else "live", slug)

    def _named(self, scope: Scope) -> str | None:
        """Return the model named in the path, query or form if it is known, else None."""
        name = named_model(scope)
        form = scope["state"].get("form")
        if name is None and form is not None:
            name = form.fields.get("model")
        return name if name in self._registry.names() else None
