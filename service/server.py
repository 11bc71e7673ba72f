"""HTTP server process: bind, serve, shut down cleanly on SIGTERM."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any

import structlog
import uvicorn

from service.errors import WeighinError
from service.inference.cpu import core_budget
from service.inference.malloc import limit_arenas
from service.inference.registry import open_registry
from service.own_models.folders import is_shared
from service.settings import Settings, malloc_arenas_are_limited

log = structlog.get_logger(__name__)

_KEEP_ALIVE_S = 75
"""Idle timeout of a connection. With uvicorn's default of 5 s, a dashboard that polls every 5 s would lose
its connection each time."""

_MAX_ATTEMPTS = 20
"""Maximum number of ports that are tried until one is free at every address."""

_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


class CannotListen(WeighinError):
    """The address does not exist on this machine, or its port is in use."""

    slug = "cannot-listen"


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then wait for running requests and save the state.

    The wait takes at most `shutdown_grace_s` seconds. Raises CannotListen and DataDirectoryInUse. Raises
    FileNotFoundError for a missing model directory, and UnreadableFolder for one that cannot be listed.
    """
    if not malloc_arenas_are_limited():
        limit_arenas(settings.threads or core_budget())
    with ExitStack() as stack:
        listeners = listen(settings.host, settings.port)
        urls = [_url(stack.enter_context(listener)) for listener in listeners]
        gc.disable()  # until `gc.enable` below, 250 000 objects are created, and nearly all of them stay
        stack.callback(gc.enable)
        registry = open_registry(settings)
        stack.callback(registry.stop_loading)
        registry.start_loading(unless=is_shared)
        from service.app import create_app  # takes a second, in which other threads load models

        app = create_app(settings, registry=registry, address=" and ".join(urls))
        gc.freeze()  # later collections skip these objects
        gc.enable()
        for url in urls:
            log.info("listening", url=url)
        _Server(server_config(app, settings), app.state.stopping).run(sockets=listeners)


def server_config(app: Any, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration for an application of `create_app`."""
    from service.api.connection.protocol import http_protocol  # imports the web framework, see `serve`

    return uvicorn.Config(
        app,
        loop="auto",
        http=http_protocol(settings.max_body_bytes, app.state.refused),
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
    """A uvicorn server that makes the process exit with 0 after a clean shutdown by a signal.

    By itself, uvicorn would raise the signal again after the shutdown. `stopping` is called on the event loop
    when a signal arrives, to end endless streams and background work. Then the server waits for the end of
    the requests in progress.
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
    """Return uvicorn's log level, which is `debug` only if the service logs debug messages, too.

    uvicorn's messages on process start and on connections help only in debugging.
    """
    return "debug" if settings.log_level == "debug" else "warning"


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on one port at every address of `host`. Port 0 picks a port that is free at all of them.

    The host `::` includes IPv4. If the machine has no IPv6, it means IPv4 alone. Addresses that this machine
    does not have are skipped. Raises CannotListen if listening fails at an address, or if no address is left.
    """
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in infos))
        for attempt in range(_MAX_ATTEMPTS if port == 0 else 1, 0, -1):
            try:
                return listen_at_all(addresses, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or attempt == 1:
                    raise
    except (OSError, UnicodeError) as error:
        if host == "::" and getattr(error, "errno", None) in _NO_SUCH_ADDRESS:
            return listen("0.0.0.0", port)
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotListen(
            f"cannot listen on {host} port {port}: {reason.lower()} "
            "(set another with --host and --port, or WEIGHIN_HOST and WEIGHIN_PORT)"
        ) from None
    raise AssertionError


def listen_at_all(
    addresses: Sequence[tuple[socket.AddressFamily, tuple[Any, ...]]], port: int
) -> list[socket.socket]:
    """Listen on these socket addresses, all on one port. Skip addresses that this machine does not have.

    Raises OSError if no address is left, or if the port is in use at one of them.
    """
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    with ExitStack() as opened:  # closes open listeners if one fails
        for family, (host, _, *scope) in addresses:
            try:
                listener = _listen_at(family, (host, port, *scope))
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise
                absent = error
                continue
            listeners.append(opened.enter_context(listener))
            port = listener.getsockname()[1]
        if absent is not None and not listeners:
            raise absent
        opened.pop_all()
    return listeners


def _listen_at(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # the default depends on the system
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        listener.bind(address)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
