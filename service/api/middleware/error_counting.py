"""Counts failed requests, whatever route, middleware or handler answered them."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service import errors
from service.api.middleware.context import route_path
from service.api.problems import INTERNAL_ERROR, STATUS, slug_of
from service.inference.registry import Registry, ServedModel
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder

MODEL_PATHS = frozenset({"classify", "compare", "explain", "retrieve-similar", "gallery"})
"""First segments of the paths that run networks: their errors are also recorded beside latency."""

_NO_ROUTE = "not-found"
_WITHOUT_MODEL = frozenset({kind.slug for kind in STATUS} | {INTERNAL_ERROR, "method-not-allowed"})
_WITH_MODEL = frozenset(
    {
        *(kind.slug for kind in (errors.MalformedRequest, errors.BodyTooLarge, errors.TooManyPixels)),
        *(kind.slug for kind in (errors.UnknownImageType, errors.EmptyBody, errors.UndecodableImage)),
        *(kind.slug for kind in (errors.InvalidParameter, errors.NoExactMap, errors.OtherModel)),
        *(kind.slug for kind in (errors.QueueFull, errors.Busy, errors.NotReady, errors.ModelUnavailable)),
        *(kind.slug for kind in (errors.DeadlineExceeded, errors.ClientGone, errors.CrossSiteRequest)),
        *(kind.slug for kind in (errors.DatabaseUnreachable, errors.StorageUnavailable)),
        INTERNAL_ERROR,
    }
)


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
        slug = scope["state"].get("refused") or slug_of(scope)
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
