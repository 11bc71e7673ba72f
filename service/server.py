"""The HTTP server process: binds, serves, and ends cleanly on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog
import uvicorn

from service.app import create_app
from service.errors import WeighinError
from service.http_protocol import http_protocol
from service.settings import Settings

log = structlog.get_logger(__name__)

_KEEP_ALIVE_S = 75
"""How long a connection may idle. A dashboard asks every 5 s, uvicorn's own limit: each time a connection
would be closed just when it is needed."""


class CannotListen(WeighinError):
    """The address does not exist here, or something else listens there already."""

    slug = "cannot-listen"


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then give requests `shutdown_grace_s`, flush the state and return.

    Raises CannotListen, DataDirectoryInUse, and FileNotFoundError or UnreadableModels for a folder of models.
    """
    listener = _bind(settings.host, settings.port)
    with listener:
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        app = create_app(settings, address=url)
        log.info("listening", url=url)
        _Server(server_config(app, settings), app.state.stopping).run(sockets=[listener])


def server_config(app: Callable[..., Any], settings: Settings) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        loop="auto",
        http=http_protocol(settings.max_body_bytes),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=logging_level(settings),
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
    )


class _Server(uvicorn.Server):
    """uvicorn, but a signal that it has obeyed is not raised again: a clean stop exits with 0.

    `stopping` is called on the event loop as soon as a signal comes: streams that would never end have to end
    before the server waits for them.
    """

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping)
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def logging_level(settings: Settings) -> str:
    """uvicorn's own lines (process started, connection details) matter only when someone debugs."""
    return "debug" if settings.log_level == "debug" else "warning"


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CannotListen(
            f"cannot listen on {host} port {port}: {(error.strerror or str(error)).lower()}; "
            "choose another with --host and --port, or WEIGHIN_HOST and WEIGHIN_PORT"
        ) from None
    return listener
