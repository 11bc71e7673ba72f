"""Query parameters: an unknown one is an error, since a misspelt one would silently mean its default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params

from service.errors import InvalidParameter

_known: dict[Callable[..., Any], frozenset[str]] = {}


async def refuse_unknown_parameters(request: Request) -> None:
    """A dependency of every route: InvalidParameter for a query parameter that the route does not declare."""
    if not request.scope["query_string"]:
        return
    endpoint = request.scope["endpoint"]
    known = _known.get(endpoint)
    if known is None:
        parameters = get_flat_params(request.scope["route"].dependant)
        known = _known[endpoint] = frozenset(parameter.alias for parameter in parameters)
    unknown = sorted(name for name in request.query_params if name not in known)
    if unknown:
        allowed = ", ".join(sorted(known)) or "none"
        raise InvalidParameter(f"unknown query parameter {unknown[0][:50]!r}; there are: {allowed}")
