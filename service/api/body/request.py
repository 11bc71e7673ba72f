"""Read the query parameters and the body of a request; limit the body in bytes and time.

An unknown query parameter is refused: otherwise, a misspelt parameter would silently keep its default. A
route finds the parts of the service that it needs by `app_part`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import FastAPI, Request

from service.errors import BodyTooLarge, ClientGone, DeadlineExceeded, InvalidParameter
from service.inference.pool import Deadline

T = TypeVar("T")
Kind = TypeVar("Kind")
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_TOLERANT = "_ignores_unknown_parameters"

MAX_KEPT = 500
"""Maximum number of different queries that are remembered as valid."""
MAX_KEPT_BYTES = 1000
"""Maximum bytes of a query that is remembered."""

_known: dict[Callable[..., Any], frozenset[str]] = {}
_accepted: set[tuple[Callable[..., Any], bytes]] = set()


@dataclass(frozen=True)
class Bounds:
    """Limits of a request with an image.

    `body_bytes`: maximum bytes of the body. `deadline_s`: maximum seconds from the arrival of the request
    until its job starts.
    """

    body_bytes: int
    deadline_s: float


def add_parts(app: FastAPI, parts: Iterable[object]) -> None:
    """Make the objects `parts`, no two of the same class, available to the routes of `app`.

    A route gets an object by its class, with `app_part`.
    """
    app.state.parts = {type(part): part for part in parts}


def app_part(request: Request, kind: type[Kind]) -> Kind:
    """Return the object of the class `kind` that `add_parts` has made available to the routes.

    Routes are built once per process, but each application has its own objects. The object is that of the
    application to which the request was sent. This function is not a dependency of FastAPI, because FastAPI
    takes longer to solve a dependency.
    """
    # items, not attributes: an attribute of `state` takes several times as long
    found: Kind = request.scope["app"].state["parts"][kind]
    return found


def root_of(request: Request) -> str:
    """Return the URL prefix that a proxy adds. It is empty if no proxy adds one."""
    return str(request.scope.get("root_path", ""))


def route_path(scope: Mapping[str, Any]) -> str:
    """Return the request's path without the prefix that a proxy adds."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def ignores_unknown_parameters(endpoint: Endpoint) -> Endpoint:
    """Decorate an endpoint, such as a page or a health check, that accepts unknown query parameters."""
    setattr(endpoint, _TOLERANT, True)
    return endpoint


async def refuse_unknown_parameters(request: Request) -> None:
    """Dependency of every route: raise InvalidParameter for an undeclared or repeated query parameter."""
    endpoint, query = request.scope["endpoint"], request.scope["query_string"]
    if not query or (endpoint, query) in _accepted or hasattr(endpoint, _TOLERANT):
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
    if len(query) <= MAX_KEPT_BYTES:
        if len(_accepted) >= MAX_KEPT:
            _accepted.clear()
        _accepted.add((endpoint, query))


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


def deadline_for(request: Request) -> Deadline:
    """Return the request's deadline.

    If a form was read before, this is the deadline with which the form was read. Otherwise, the time is
    counted from now. The deadline also watches for the client's disconnect.
    """

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    limit_s = app_part(request, Bounds).deadline_s
    form = getattr(request.state, "form", None)
    if form is None:
        return Deadline.after(limit_s, disconnected)
    return Deadline(form.deadline.at, limit_s, disconnected)


async def in_time(reading: Awaitable[T], deadline: Deadline) -> T:
    """Await `reading`, which reads the body, and return its result.

    Raises DeadlineExceeded if the body was not read before the deadline.
    """
    try:
        async with asyncio.timeout_at(deadline.at):
            return await reading
    except TimeoutError:
        raise DeadlineExceeded(f"body: not received within {deadline.limit_s:g} s") from None


def content_type_of(request: Request) -> str:
    """Return the body's content type. It is empty if the request names none."""
    return request.headers.get("content-type", "")


def media_type_of(request: Request) -> str:
    """Return the content type in lower case, without parameters."""
    return content_type_of(request).partition(";")[0].strip().lower()


def is_form(request: Request) -> bool:
    """Return whether the content type is multipart/form-data."""
    return media_type_of(request) == "multipart/form-data"


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body. Raises BodyTooLarge and ClientGone, as the class `Body` does."""
    body = Body(request, max_bytes)
    chunks = []
    while (chunk := await body.chunk()) is not None:
        chunks.append(chunk)
    return b"".join(chunks)  # a body of one chunk is not copied


class Body:
    """The body of a request, which arrives in chunks.

    Raises BodyTooLarge as soon as more than `max_bytes` bytes are announced or received, and ClientGone if
    the client disconnects before the body is complete.
    """

    def __init__(self, request: Request, max_bytes: int | None = None) -> None:
        self._receive = request.receive
        self._max_bytes = max_bytes
        self._size = 0
        self._complete = False
        announced = request.headers.get("content-length", "")
        if max_bytes is not None and announced.isdigit() and int(announced) > max_bytes:
            raise BodyTooLarge(f"body: {announced} bytes (limit: {max_bytes})")

    async def chunk(self) -> bytes | None:
        """Return the next chunk that is not empty, or None at the end of the body."""
        while not self._complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("client: disconnected while sending the body")
            self._complete = not message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            self._size += len(chunk)
            if self._max_bytes is not None and self._size > self._max_bytes:
                raise BodyTooLarge(f"body: too many bytes (limit: {self._max_bytes})")
            if chunk:
                return chunk
        return None
