"""Routers: what every route has, the key that guards some, and how routes come into the application."""

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
    RequestTimeout,
    Unauthorized,
)

_bearer = Depends(HTTPBearer(auto_error=False, description="WEIGHIN_API_KEY, where it is set"))


def new_router(*tags: str, prefix: str = "") -> APIRouter:
    """Return a router whose routes refuse unknown query parameters and document the errors that all have."""
    return APIRouter(
        prefix=prefix,
        tags=list(tags),
        dependencies=[Depends(refuse_unknown_parameters)],
        responses=documented(MalformedRequest, RequestTimeout, InvalidParameter, HeadersTooLarge),
    )


def key_needed(api_key: SecretStr | None) -> Callable[..., Awaitable[None]]:
    """A dependency for routes that change state: Unauthorized unless the request carries `api_key`.

    Without a key set, everyone may.
    """

    async def check(given: HTTPAuthorizationCredentials | None = _bearer) -> None:
        if api_key is None:
            return
        expected = api_key.get_secret_value().encode()
        if given is None:
            raise Unauthorized("this needs a key: send it as 'Authorization: Bearer <key>'")
        if not secrets.compare_digest(given.credentials.encode(), expected):
            raise Unauthorized("the key is not the right one")

    return check


def add_routes(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Add the routes of `routers` to `app` as they are.

    `app.include_router` would build each route a second time, and match each request twice.
    """
    for router in routers:
        app.router.routes.extend(router.routes)
