"""Open the gallery of a running service, or of a service that this process starts."""

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
        help="URL of a running service, e.g. http://127.0.0.1:8000 [default: open the configured database "
        "directly; if it is a file, no service may be running on it]",
    ),
]


@contextmanager
def open_gallery(url: str | None) -> Iterator[GalleryClient]:
    """Yield a client of the service at `url`, when the service is ready.

    If `url` is None, start a service in this process, on the configured database and a free loopback port. In
    this way, commands behave alike with and without a running service. Raises Refused if the service cannot
    be reached, and DataDirectoryInUse if another service has locked the data directory.
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
    import uvicorn  # imported here, because with `--url` or `--help` no web framework is needed

    from service.app import create_app
    from service.logs import configure_logging

    configure_logging("text", "error")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            app = create_app(settings)
        except DataDirectoryInUse as error:
            raise DataDirectoryInUse(f"{error.detail}; or use that service with --url") from None
        server = uvicorn.Server(
            uvicorn.Config(app, http="httptools", ws="none", lifespan="on", log_config=None, access_log=False)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="service")
        thread.start()
        try:
            yield address
        except Refused as error:
            if not thread.is_alive():
                raise Refused("service in this process: ended (see the messages above)") from error
            raise
        finally:
            app.state.stopping()
            server.should_exit = True
            thread.join()
