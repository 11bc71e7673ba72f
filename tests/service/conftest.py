"""The service on a real socket, with the tiny models."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from service.app import create_app
from service.settings import Settings


@contextmanager
def running(settings: Settings) -> Iterator[httpx.Client]:
    """The service in a thread of this process, on a free port; yields a client that talks to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(settings), lifespan="on", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="service")
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while client.get("/readyz").json()["status"] == "loading":
                pass
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive(), "the service did not stop"


@pytest.fixture
def tiny_settings(tiny_models_dir: Path, tmp_path: Path) -> Settings:
    """Settings for the tiny models with a data directory of their own."""
    return Settings(model_dirs=(tiny_models_dir,), default_model="tiny", data_dir=tmp_path / "data")


@pytest.fixture
def serve(tiny_settings: Settings) -> Iterator[Callable[..., httpx.Client]]:
    """Start services with the tiny models, settings changed as given; they end with the test."""
    with ExitStack() as stack:

        def start(**changes: object) -> httpx.Client:
            return stack.enter_context(running(tiny_settings.model_copy(update=changes)))

        yield start


@pytest.fixture(scope="module")
def client(tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of one service with the tiny models, shared by a module's tests."""
    data_dir = tmp_path_factory.mktemp("data")
    settings = Settings(model_dirs=(tiny_models_dir,), default_model="tiny", data_dir=data_dir)
    with running(settings) as client:
        yield client
