"""Routers: what every route of the service has, and how its routes come into the application."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Depends, FastAPI

from service.api.body.parameters import refuse_unknown_parameters
from service.api.problems import documented
from service.errors import HeadersTooLarge, InvalidParameter, MalformedRequest, RequestTimeout


def new_router(*tags: str, prefix: str = "") -> APIRouter:
    """Return a router whose routes refuse unknown query parameters and document the errors that all have."""
    return APIRouter(
        prefix=prefix,
        tags=list(tags),
        dependencies=[Depends(refuse_unknown_parameters)],
        responses=documented(MalformedRequest, RequestTimeout, InvalidParameter, HeadersTooLarge),
    )


def add_routes(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Add the routes of `routers` to `app` as they are.

    `app.include_router` would build each route a second time, and match each request twice.
    """
    for router in routers:
        app.router.routes.extend(router.routes)
