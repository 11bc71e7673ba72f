"""Create routers, protect routes with the API key, and add routes to the application."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from service.api.body.request import refuse_unknown_parameters
from service.api.problems import documented
from service.errors import (
    HeadersTooLarge,
    InvalidParameter,
    MalformedRequest,
    NoKeySet,
    RequestTimeout,
    Unauthorized,
)

_bearer = Depends(HTTPBearer(auto_error=False, description="WEIGHIN_API_KEY, if it is set"))


def new_router(*tags: str, prefix: str = "") -> APIRouter:
    """Return a router whose routes refuse unknown query parameters and document the common errors."""
    return APIRouter(
        prefix=prefix,
        tags=list(tags),
        dependencies=[Depends(refuse_unknown_parameters)],
        responses=documented(MalformedRequest, RequestTimeout, InvalidParameter, HeadersTooLarge),
    )


def key_needed(api_key: SecretStr | None) -> Callable[..., Awaitable[None]]:
    """Return a dependency for routes that write: raise Unauthorized unless the request has `api_key`.

    If `api_key` is None, every request is allowed.
    """

    async def check(credentials: HTTPAuthorizationCredentials | None = _bearer) -> None:
        if api_key is None:
            return
        expected = api_key.get_secret_value().encode()
        if credentials is None:
            raise Unauthorized("API key: missing (send 'Authorization: Bearer <key>')")
        if not secrets.compare_digest(credentials.credentials.encode(), expected):
            raise Unauthorized("API key: wrong")

    return check


def own_key_needed(api_key: SecretStr | None) -> Callable[..., Awaitable[None]]:
    """Return a dependency like `key_needed` that raises NoKeySet if `api_key` is None."""
    guard = key_needed(api_key)

    async def check(given: HTTPAuthorizationCredentials | None = _bearer) -> None:
        if api_key is None:
            raise NoKeySet(
                "WEIGHIN_API_KEY: not set, so models cannot be changed over HTTP (allowed: set it and send "
                "it as 'Authorization: Bearer <key>', or use `weighin add`)"
            )
        await guard(given)

    return check


def add_routes(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Add the routes of `routers` to `app` without copies.

    `app.include_router` would build each route again, and match each request twice.
    """
    for router in routers:
        app.router.routes.extend(router.routes)
