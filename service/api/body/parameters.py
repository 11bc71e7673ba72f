"""Refuse unknown query parameters, because a misspelt one would silently have its default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fastapi import Request

from service.errors import InvalidParameter

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_TOLERANT = "_ignores_unknown_parameters"

_known: dict[Callable[..., Any], frozenset[str]] = {}


def ignores_unknown_parameters(endpoint: Endpoint) -> Endpoint:
    """Decorate an endpoint that accepts unknown query parameters, such as pages and health checks."""
    setattr(endpoint, _TOLERANT, True)
    return endpoint


async def refuse_unknown_parameters(request: Request) -> None:
    """Dependency of every route: raise InvalidParameter for an undeclared or repeated query parameter."""
    if not request.scope["query_string"]:
        return
    endpoint = request.scope["endpoint"]
    if hasattr(endpoint, _TOLERANT):
        return
    known = query_parameters(request)
    names = [name for name, _ in request.query_params.multi_items()]
    unknown = sorted(set(names) - known)
    if unknown:
        raise InvalidParameter(
            f"unknown query parameter {unknown[0][:50]!r} (allowed: {', '.join(sorted(known)) or 'none'})"
        )
    repeated = sorted(name for name in known if names.count(name) > 1)
    if repeated:
        raise InvalidParameter(f"query parameter {repeated[0]!r}: given {names.count(repeated[0])} times")


def query_parameters(request: Request) -> frozenset[str]:
    """Return the names of the query parameters that the request's route declares."""
    endpoint = request.scope["endpoint"]
    known = _known.get(endpoint)
    if known is None:
        known = _known[endpoint] = frozenset(_declared(request.scope["route"].dependant))
    return known


def _declared(dependant: Any) -> Iterator[str]:
    """Yield the query parameters of an endpoint or dependency and, recursively, of its dependencies."""
    yield from (field.alias for field in dependant.query_params)
    for dependency in dependant.dependencies:
        yield from _declared(dependency)
