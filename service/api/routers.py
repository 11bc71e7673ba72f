"""Create routers, protect routes with the API key, and add routes to the application."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from service.api.body.request import app_part, refuse_unknown_parameters
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


def new_router(
    *tags: str, prefix: str = "", route_class: type[APIRoute] = APIRoute, protocol: bool = False
) -> APIRouter:
    """Return a router whose routes refuse unknown query parameters and document the common errors.

    `protocol`: whether the routes belong to the Open Inference Protocol, which has its own form of errors.
    """
    return APIRouter(
        prefix=prefix,
        tags=list(tags),
        route_class=route_class,
        dependencies=[Depends(refuse_unknown_parameters)],
        responses=documented(
            MalformedRequest, RequestTimeout, InvalidParameter, HeadersTooLarge, protocol=protocol
        ),
    )


@dataclass(frozen=True)
class ApiKey:
    """The API key, which routes get with `app_part`.

    `secret`: the setting WEIGHIN_API_KEY, or None if it is not set.
    """

    secret: SecretStr | None


async def key_needed(request: Request, given: HTTPAuthorizationCredentials | None = _bearer) -> None:
    """Dependency of routes that write: raise Unauthorized unless the request has the API key.

    If no API key is set, every request is allowed.
    """
    api_key = app_part(request, ApiKey).secret
    if api_key is None:
        return
    if given is None:
        raise Unauthorized("API key: missing (send 'Authorization: Bearer <key>')")
    if not secrets.compare_digest(given.credentials.encode(), api_key.get_secret_value().encode()):
        raise Unauthorized("API key: wrong")


async def own_key_needed(request: Request, given: HTTPAuthorizationCredentials | None = _bearer) -> None:
    """Dependency of routes that change models: raise Unauthorized unless the request has the API key.

    Unlike `key_needed`, it raises NoKeySet if no API key is set.
    """
    if app_part(request, ApiKey).secret is None:
        raise NoKeySet(
            "WEIGHIN_API_KEY: not set, so models cannot be changed over HTTP (allowed: set it and send "
            "it as 'Authorization: Bearer <key>', or use `weighin add`)"
        )
    await key_needed(request, given)


def add_routes(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Add the routes of `routers` to `app` without copies.

    `app.include_router` would build each route again, and match each request twice.
    """
    for router in routers:
        app.router.routes.extend(router.routes)
