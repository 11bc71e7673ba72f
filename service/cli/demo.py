"""`weighin demo`: run every model on bundled photographs, and say where to look at the result."""

from __future__ import annotations

import logging
import threading
import time
from typing import Annotated, Any

import typer

from service.cli.gallery.client import GalleryClient, Refused
from service.cli.output import say
from service.cli.settings import settings_with
from service.errors import InvalidParameter
from service.settings import Settings

_PERIOD_S = 0.5


def demo(
    url: Annotated[
        str | None,
        typer.Option(
            help="URL of a running service [default: the one on the configured port, started if needed]"
        ),
    ] = None,
) -> None:
    """Run every model on four bundled photographs for at most half a minute, to see the dashboard with data.

    The runs are recorded in the regime `demo`, apart from live requests. If no service is running, this
    command starts one, which serves until Ctrl+C.
    """
    settings = settings_with()
    if url is None and settings.port == 0:
        raise InvalidParameter("WEIGHIN_PORT 0: the demo needs a fixed one (allowed: 1 to 65535, or --url)")
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    address = url or f"http://{_host(settings)}:{settings.port}"
    with _DemoClient(address, key) as client:
        if url is not None or client.answers():
            client.wait_until_ready()
            _run(client, address)
            return
    _serve(settings, address, key)


class _DemoClient(GalleryClient):
    """Client of the demo's routes."""

    def answers(self) -> bool:
        """Return whether a service answers at the URL."""
        try:
            self._json("GET", "/readyz")
        except Refused as error:
            if error.status == 0:
                return False
            raise
        return True

    def is_ready(self) -> bool:
        """Return whether a service answers and has loaded its models."""
        return self.answers() and self._json("GET", "/readyz")["status"] != "loading"

    def start(self) -> dict[str, Any]:
        """Start the demo; retry while another demo or a benchmark runs."""
        return self._json("POST", "/demo")

    def demo(self) -> dict[str, Any]:
        """Return the state of the demo."""
        return self._json("GET", "/demo")


def _run(client: _DemoClient, address: str) -> None:
    state = client.start()
    say(f"running {state['models']} models on bundled photographs: see {address}/dashboard?regime=demo")
    while state["running"]:
        time.sleep(_PERIOD_S)
        state = client.demo()
    if not state["runs"]:
        raise Refused(f"demo: no run was made: {state['detail']}")
    ended = f" ({state['detail']})" if state["detail"] else ""
    say(f"{state['runs']} of {state['planned']} runs recorded in the regime demo{ended}")


def _serve(settings: Settings, address: str, key: str | None) -> None:
    """Serve until a signal, and run the demo once the models are loaded.

    Exits with code 1 if the demo failed.
    """
    from service.logs import configure_logging  # imported here, because the web framework takes half a second
    from service.server import serve

    failures: list[Refused] = []

    def run() -> None:
        try:
            with _DemoClient(address, key) as client:
                while not client.is_ready():
                    time.sleep(_PERIOD_S)
                _run(client, address)
        except Refused as error:
            failures.append(error)
            say(f"weighin: {error}", error=True)

    configure_logging(settings.log_format, settings.log_level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # otherwise httpx logs every request of `run`
    threading.Thread(target=run, name="demo", daemon=True).start()
    serve(settings)
    if failures:
        raise typer.Exit(1)


def _host(settings: Settings) -> str:
    """Return the host part of a URL by which the service can be reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"[{host}]" if ":" in host else host
