"""Which gallery a command is about: a running service's, or the one of this machine's settings."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from service.cli.gallery.client import GalleryClient, Refused
from service.cli.settings import settings_with
from service.errors import DataDirectoryInUse
from service.settings import Settings

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="A running service, e.g. http://127.0.0.1:8000 [default: the database that the settings name, "
        "which no service may hold if it is a file]",
    ),
]


@contextmanager
def open_gallery(url: str | None) -> Iterator[GalleryClient]:
    """A client of the service at `url`, or without one of a service in this process, on the settings'
    database and a loopback port that nobody else is told: what holds for the one then holds for the other.

    Raises Refused when there is no service, DataDirectoryInUse when there is one and it was not named.
    """
    settings = settings_with()
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    if url is not None:
        with GalleryClient(url, key) as client:
            client.wait_until_ready()
            yield client
        return
    with _own_service(settings) as address, GalleryClient(address, key) as client:
        client.wait_until_ready()
        yield client


@contextmanager
def _own_service(settings: Settings) -> Iterator[str]:
    import uvicorn  # here, so that `--url` and `--help` do not wait for a web framework

    from service.app import create_app
    from service.logs import configure_logging

    configure_logging("text", "error")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            app = create_app(settings)
        except DataDirectoryInUse as error:
            raise DataDirectoryInUse(f"{error.detail}; or name that service with --url") from None
        server = uvicorn.Server(
            uvicorn.Config(app, http="httptools", ws="none", lifespan="on", log_config=None, access_log=False)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="service")
        thread.start()
        try:
            yield address
        except Refused as error:
            if not thread.is_alive():
                raise Refused("the service in this process ended, see above") from error
            raise
        finally:
            app.state.stopping()
            server.should_exit = True
            thread.join()
