"""Bodies that FastAPI reads by itself: it would keep any number of bytes for any time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem_of
from service.errors import BodyTooLarge, DeadlineExceeded, WeighinError

MAX_JSON_BYTES = 100_000
"""Bytes of a JSON body."""


class JsonBodies:
    """Pure ASGI middleware: read the body of a POST to one of `paths` ahead, within bounds."""

    def __init__(self, app: ASGIApp, *, paths: Collection[str], deadline_s: float) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._deadline_s = deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not self._applies(scope):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._deadline_s):
                body = await _read(receive)
        except TimeoutError:
            late = DeadlineExceeded(f"the body did not arrive within {self._deadline_s:g} s")
            await self._refuse(late, scope, receive, send)
        except BodyTooLarge as error:
            await self._refuse(error, scope, receive, send)
        else:
            replayed = False

            async def replay() -> Message:
                nonlocal replayed
                if replayed or body is None:
                    return await receive()
                replayed = True
                return {"type": "http.request", "body": body, "more_body": False}

            await self._app(scope, replay, send)

    def _applies(self, scope: Scope) -> bool:
        return scope["path"].removeprefix(scope.get("root_path", "")) in self._paths

    async def _refuse(self, error: WeighinError, scope: Scope, receive: Receive, send: Send) -> None:
        await problem_of(scope["state"]["request_id"], error)(scope, receive, send)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None where the client went away."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        piece = message.get("body", b"")
        size += len(piece)
        if size > MAX_JSON_BYTES:
            raise BodyTooLarge(f"JSON body: more than {MAX_JSON_BYTES} bytes")
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)
