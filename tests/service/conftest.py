"""Fixtures: services on real sockets with the tiny models, with SQLite and PostgreSQL."""

from __future__ import annotations

import io
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image

from service.app import create_app
from service.server import server_config
from service.settings import Settings
from service.storage.database import FILE_NAME, open_database, prepare
from tests.helpers.http_client import http_client, wait_until_loaded
from tests.helpers.postgres import PostgresServer, dump_as_sql, postgres_server, run_sql

NewDatabase = Callable[[], str | None]
NewTables = Callable[[Path], str | None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with `@pytest.mark.databases("sqlite", "postgresql")` once with each; others with SQLite."""
    mark = metafunc.definition.get_closest_marker("databases")
    if mark is not None and "new_database" in metafunc.fixturenames:
        metafunc.parametrize("new_database", mark.args, indirect=True, scope="session")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return a PostgreSQL server, started on first use."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    """Return a function that creates an empty database and returns its URL; None: the data directory."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return lambda: None
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_schema


@pytest.fixture(scope="session")
def slow_png() -> bytes:
    """Return an image of 36 M pixels in few bytes, which keeps a core busy while it is decoded.

    It has a palette, so that it is made in a fifth of the time.
    """
    buffer = io.BytesIO()
    Image.new("P", (6000, 6000)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@pytest.fixture
def database_url(new_database: NewDatabase) -> str | None:
    """Return the URL of an empty database of this test; None: a file in the data directory."""
    return new_database()


@pytest.fixture(scope="session")
def new_tables(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> NewTables:
    """Makes a database with the tables and no rows, in a folder or on the server, and gives its URL as
    `new_database` does. It copies a migrated one, which takes a tenth of the time of migrating."""
    folder, url = tmp_path_factory.mktemp("migrated"), new_database()
    engine = open_database(url, folder)
    prepare(engine)
    engine.dispose()
    script = None if url is None else dump_as_sql(url)

    def make(data_dir: Path) -> str | None:
        url = new_database()
        if url is not None and script is not None:
            run_sql(url, script)
        else:
            data_dir.mkdir(exist_ok=True)
            shutil.copyfile(folder / FILE_NAME, data_dir / FILE_NAME)
        return url

    return make


@pytest.fixture
def migrated_url(new_tables: NewTables, tmp_path: Path) -> str | None:
    """Return the URL of a database of this test with the tables; None: the file in `tmp_path`."""
    return new_tables(tmp_path)


@contextmanager
def running(settings: Settings) -> Iterator[httpx.Client]:
    """Run the service in a thread of this process, on a free port; yield a client."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(create_app(settings), settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="service")
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with http_client(url) as client:
            wait_until_loaded(client)
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive(), "the service did not stop"


@pytest.fixture
def tiny_settings(tiny_models_dir: Path, tmp_path: Path, new_tables: NewTables) -> Settings:
    """Return settings with the tiny models and a separate data directory and database."""
    return Settings(
        model_dirs=(tiny_models_dir,),
        default_model="tiny",
        data_dir=tmp_path / "data",
        database_url=new_tables(tmp_path / "data"),
    )


@pytest.fixture(scope="session")
def openapi(tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the OpenAPI document of the service, which takes half a second to generate. Do not change it."""
    data_dir = tmp_path_factory.mktemp("data")
    settings = Settings(model_dirs=(tiny_models_dir,), default_model="tiny", data_dir=data_dir)
    with running(settings) as client:
        document: dict[str, Any] = client.get("/openapi.json").json()
    return document


@pytest.fixture
def serve(tiny_settings: Settings) -> Iterator[Callable[..., httpx.Client]]:
    """Return a function that starts services with the tiny models and given settings, until the test ends."""
    with ExitStack() as stack:

        def start(**changes: object) -> httpx.Client:
            return stack.enter_context(running(tiny_settings.model_copy(update=changes)))

        yield start


@pytest.fixture(scope="module")
def serve_for_module(
    tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory, new_tables: NewTables
) -> Iterator[Callable[..., httpx.Client]]:
    """Return a function that starts services with tiny models and given settings, until the module ends."""
    with ExitStack() as stack:

        def start(**changes: object) -> httpx.Client:
            data_dir = tmp_path_factory.mktemp("data")
            settings = Settings(
                model_dirs=(tiny_models_dir,),
                default_model="tiny",
                data_dir=data_dir,
                database_url=new_tables(data_dir),
            )
            return stack.enter_context(running(settings.model_copy(update=changes)))

        yield start


@pytest.fixture(scope="module")
def client(
    tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory, new_tables: NewTables
) -> Iterator[httpx.Client]:
    """Return a client of a service with the tiny models, shared by the module's tests."""
    data_dir = tmp_path_factory.mktemp("data")
    settings = Settings(
        model_dirs=(tiny_models_dir,),
        default_model="tiny",
        data_dir=data_dir,
        database_url=new_tables(data_dir),
    )
    with running(settings) as client:
        yield client
