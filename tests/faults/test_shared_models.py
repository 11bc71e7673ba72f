"""Kills, a full disk and a killed PostgreSQL while a model goes from one replica to another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from service.own_models.folders import MARKER
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.faults.test_storage_faults import fill, small_disk
from tests.helpers.postgres import PostgresServer, postgres_server
from tests.helpers.problems import assert_problem
from tests.helpers.process import ServiceProcess, service_process
from tests.helpers.until import until
from tests.service.api.test_model_changes import KEY, form
from tests.service.conftest import running

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server that the tests may kill."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    """The URL of a schema of this test."""
    return server.new_schema()


@pytest.fixture
def settings(tiny_models_dir: Path, tmp_path: Path, url: str) -> Settings:
    """Settings of a replica in this process."""
    return Settings(
        model_dirs=(tiny_models_dir,), default_model="tiny", data_dir=tmp_path / "here", database_url=url,
        api_key=SecretStr("sesame"),
    )  # fmt: skip


@pytest.fixture
def networks(tmp_path: Path) -> list[bytes]:
    """Two ONNX files."""
    made = (make_tiny_model(tmp_path / "made", f"n{seed}", seed=seed) for seed in range(2))
    return [(folder / "model.onnx").read_bytes() for folder in made]


@contextmanager
def replica(settings: Settings, data_dir: Path) -> Iterator[tuple[ServiceProcess, httpx.Client]]:
    """Run a replica in a process of its own."""
    (models,) = settings.model_dirs
    url = settings.database_url
    with (
        service_process(models, data_dir, database_url=url, api_key="sesame") as process,
        process.client() as client,
    ):
        client.headers.update(KEY)
        yield process, client


@contextmanager
def locked(url: str, table: str) -> Iterator[None]:
    """Hold a lock for which everybody waits who uses the table."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")  # type: ignore[arg-type, unused-ignore]
        yield
        connection.rollback()


def waits(server: PostgresServer) -> bool:
    """Return whether some session waits for a lock."""
    with server.connect() as connection:
        row = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
    return row is not None and row[0] > 0


@contextmanager
def meanwhile(condition: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """Context in which a thread waits for a condition and acts then."""

    def watch() -> None:
        until(condition, "the service has come so far")
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def marker(folder: Path) -> str:
    """Return the marker of a model's folder; empty if there is none."""
    path = folder / MARKER
    return path.read_text() if path.exists() else ""


def version(client: httpx.Client) -> str | None:
    served: str | None = client.get("/models/mine").json().get("version")
    return served


@pytest.mark.parametrize("replaces", [False, True], ids=["added", "replaced"])
def test_killed_before_the_commit(
    replaces: bool, server: PostgresServer, settings: Settings, networks: list[bytes], tmp_path: Path
) -> None:
    old = None
    folder = tmp_path / "data/models/mine"
    with replica(settings, tmp_path / "data") as (process, client):
        if replaces:
            old = client.post("/models?name=mine", **form(networks[0])).json()["version"]
        with (
            locked(str(settings.database_url), "shared_model_chunks"),
            meanwhile(lambda: waits(server) and '"committed": false' in marker(folder), process.popen.kill),
            pytest.raises(httpx.TransportError),
        ):
            client.put("/models/mine", **form(networks[1]))
        assert process.wait() == -9
    assert '"committed": false' in marker(folder), "the folder was in place, but not acknowledged"
    with replica(settings, tmp_path / "data") as (_, client):
        assert version(client) == old
        assert folder.exists() == replaces
        response = client.put("/models/mine", **form(networks[1]))
        assert response.status_code == (200 if replaces else 201), response.text
        assert version(client) == response.json()["version"] != old


def test_killed_while_it_writes_the_folder(
    server: PostgresServer, settings: Settings, networks: list[bytes], tmp_path: Path, png: bytes
) -> None:
    folder = tmp_path / "data/models"
    with running(settings) as here:
        here.headers.update(KEY)
        with replica(settings, tmp_path / "data") as (_, client):
            old = here.post("/models?name=mine", **form(networks[0])).json()["version"]
            until(lambda: version(client) == old, "taken up")
        newer = here.put("/models/mine", **form(networks[1])).json()["version"]
        with (
            locked(str(settings.database_url), "shared_model_chunks"),
            service_process(
                settings.model_dirs[0], tmp_path / "data", database_url=settings.database_url
            ) as process,
        ):
            until(lambda: waits(server), "the replica reads the files")
            until(lambda: any(folder.glob(".-copying-*/mine/*")), "it has begun to write")
            process.popen.kill()
            assert process.wait() == -9
        assert any(folder.glob(".-copying-*"))
        with replica(settings, tmp_path / "data") as (_, client):
            assert version(client) == newer
            assert client.post("/classify?model=mine", content=png).status_code == 200
            assert [path.name for path in folder.iterdir()] == ["mine"], "what it left is removed"


def test_killed_server(
    server: PostgresServer, settings: Settings, networks: list[bytes], tmp_path: Path, png: bytes
) -> None:
    other_settings = settings.model_copy(update={"data_dir": tmp_path / "other"})
    with running(settings) as here, running(other_settings) as other:
        for client in (here, other):
            client.headers.update(KEY)
        old = here.post("/models?name=mine", **form(networks[0])).json()["version"]
        until(lambda: version(other) == old, "taken up")
        server.kill()
        try:
            for response in (
                here.post("/models?name=new", **form(networks[1])),
                here.put("/models/mine", **form(networks[1])),
                here.delete("/models/mine"),
                here.put("/models/mine/runtime?runtime=onnxruntime"),
            ):
                assert_problem(response, 503, "database-unreachable")
            assert [path.name for path in settings.added_models.iterdir()] == ["mine"]
            for client in (here, other):
                assert version(client) == old
                assert client.post("/classify?model=mine", content=png).status_code == 200
                assert client.get("/models/mine").json()["runtime"]["origin"] == "setting"
                until(lambda client=client: degraded(client) is not None, "it says so")
        finally:
            server.start()
        newer = here.put("/models/mine", **form(networks[1]))
        assert newer.status_code == 200, newer.text
        until(lambda: version(other) == newer.json()["version"], "taken up")
        for client in (here, other):
            until(lambda client=client: degraded(client) is None, "it has recovered")


def test_started_while_the_server_is_down(
    server: PostgresServer, settings: Settings, networks: list[bytes], tmp_path: Path
) -> None:
    """It is not ready without the acknowledged models: it may replace the last replica that has them."""
    with running(settings) as here:
        added = here.post("/models?name=mine", headers=KEY, **form(networks[0])).json()["version"]
    server.kill()
    try:
        with (
            service_process(
                settings.model_dirs[0], tmp_path / "late", database_url=settings.database_url
            ) as process,
            meanwhile(lambda: "of other replicas cannot be taken up" in process.log, server.start),
            process.client() as late,  # waits for /readyz
        ):
            assert version(late) == added
            until(lambda: degraded(late) is None, "it has recovered")
            process.popen.terminate()
            assert process.wait() == 0
    finally:
        server.start()


def degraded(client: httpx.Client) -> str | None:
    reason: str | None = client.get("/readyz").json()["degraded"]
    return reason


def test_lost_in_the_commit(server: PostgresServer, settings: Settings, networks: list[bytes]) -> None:
    """The connection is cut while the model is being stored: nothing of it is left."""
    with running(settings) as here:
        here.headers.update(KEY)
        old = here.post("/models?name=mine", **form(networks[0])).json()["version"]

        def cut() -> None:
            with server.connect() as administrator:
                administrator.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")

        with (
            locked(str(settings.database_url), "shared_model_chunks"),
            meanwhile(lambda: waits(server), cut),
        ):
            response = here.put("/models/mine", **form(networks[1]))
        assert_problem(response, 503, "database-unreachable")
        assert version(here) == old
        assert '"committed": true' in marker(settings.added_models / "mine")
        assert [path.name for path in settings.added_models.iterdir()] == ["mine"]


def test_full_disk_of_a_replica(settings: Settings, networks: list[bytes], tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        running(settings) as here,
        running(settings.model_copy(update={"data_dir": disk / "data"})) as other,
    ):
        (disk / "data/models").mkdir(parents=True)
        fill(disk / "full")
        added = here.post("/models?name=mine", headers=KEY, **form(networks[0]))
        assert added.status_code == 201, added.text
        until(lambda: degraded(other) is not None, "it says so")
        assert "'mine' of another replica" in str(degraded(other))
        assert "no space left" in str(degraded(other)) or "full" in str(degraded(other))
        assert other.get("/readyz").status_code == 200
        deleted = other.delete("/models/mine", headers=KEY)
        assert deleted.status_code == 204, "though it was never served here"
        until(lambda: version(here) is None, "deleted")
        until(lambda: degraded(other) is None, "it is not missed any more")
        added = here.post("/models?name=mine", headers=KEY, **form(networks[0]))
        until(lambda: degraded(other) is not None, "the disk is still full")
        (disk / "full").unlink()
        until(lambda: version(other) == added.json()["version"], "taken up")
        until(lambda: degraded(other) is None, "it has recovered")
