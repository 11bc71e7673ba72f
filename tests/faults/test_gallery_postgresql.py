"""PostgreSQL stops under load or cuts connections in transactions: 503 meanwhile, no data loss."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.own_models import replicas as replicas_of_models
from service.settings import Settings
from tests.faults.gallery_truth import Truth
from tests.helpers.http_client import http_client
from tests.helpers.postgres import PostgresServer, postgres_server
from tests.helpers.problems import assert_problem
from tests.helpers.until import until
from tests.service.conftest import running
from tests.service.gallery.pictures import blobs

pytestmark = pytest.mark.fault

CLIENTS = 4


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server that the tests may kill."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def replicas(server: PostgresServer, tiny_models_dir: Path, tmp_path: Path) -> Iterator[list[httpx.Client]]:
    """Start two services on one database."""
    settings = Settings(
        model_dirs=(tiny_models_dir,),
        default_model="tiny",
        data_dir=tmp_path,
        database_url=server.new_schema(),
    )
    with running(settings) as one, running(settings) as other:
        yield [one, other]


class Load:
    """Clients that change a gallery until stopped; acknowledged changes are recorded in `truth`."""

    def __init__(self, replicas: list[httpx.Client], truth: Truth) -> None:
        self.truth = truth
        self.problems: list[dict[str, Any]] = []
        self._stop = threading.Event()
        ids = list(truth.possible)
        self._threads = [
            threading.Thread(
                target=self._work, args=(replicas[number % 2].base_url, ids[number::CLIENTS], number)
            )
            for number in range(CLIENTS)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, url: httpx.URL, ids: list[str], seed: int) -> None:
        chance = random.Random(seed)
        with http_client(url) as client:
            while not self._stop.is_set():
                response = self.truth.change(client, chance.choice(ids), chance)
                if response.is_server_error:
                    self.problems.append(assert_problem(response, 503, "database-unreachable"))

    def go_on(self, count: int) -> None:
        """Wait until this many more changes are acknowledged."""
        enough = self.truth.acknowledged + count
        until(lambda: self.truth.acknowledged >= enough, f"{count} more changes are acknowledged")


def degraded(client: httpx.Client) -> Callable[[], bool]:
    return lambda: client.get("/readyz").json()["degraded"] is not None


def test_killed_server_under_load(server: PostgresServer, replicas: list[httpx.Client], png: bytes) -> None:
    truth = Truth(32)
    with Load(replicas, truth) as load:
        load.go_on(50)
        for _ in range(2):
            server.kill()
            refused = len(load.problems)
            until(lambda refused=refused: len(load.problems) > refused + CLIENTS, "changes are refused")
            for client in replicas:
                until(degraded(client), "the service says that it is degraded")
                assert client.get("/readyz").status_code == 200
                # Inference goes on; what needs the database says so, and when to ask again.
                assert client.post("/classify", content=png).status_code == 200
                assert_problem(client.post("/retrieve-similar", content=png), 503, "database-unreachable")
                assert_problem(client.get("/gallery/images"), 503, "database-unreachable")
                assert client.get("/latency?model=tiny&stage=total").json()["degraded"] is not None
            server.start()
            load.go_on(50)
            for client in replicas:
                until(lambda client=client: not degraded(client)(), "the service has recovered")
    assert {problem["detail"] for problem in load.problems} <= {
        "database server: cannot be reached",
        "database server: starting or stopping",
    }
    # What was refused may have been committed just before its connection broke, so both are possible there.
    count = truth.check(replicas[0])
    assert truth.check(replicas[1]) == count > 0
    until(
        lambda: all(
            client.get("/latency?model=tiny&stage=total").json()["latencies"][0]["count"] == 4
            for client in replicas
        ),
        "both tell the four classifications, those during the outage too",
    )


def test_cut_connections_in_transactions(server: PostgresServer, replicas: list[httpx.Client]) -> None:
    truth = Truth(32)
    cut = 0
    with Load(replicas, truth) as load, server.connect() as administrator:
        for _ in range(40):
            load.go_on(5)
            cut += administrator.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = 'weighin' AND state LIKE '%in transaction%'"
            ).fetchone()[0]
    assert cut > 5
    count = truth.check(replicas[0])
    assert truth.check(replicas[1]) == count
    for client in replicas:
        until(lambda client=client: not degraded(client)(), "the service has recovered")


def test_start_without_the_server(
    server: PostgresServer,
    tiny_models_dir: Path,
    tmp_path: Path,
    png: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replicas_of_models, "START_WITHIN_S", 0.1)
    settings = Settings(
        model_dirs=(tiny_models_dir,),
        default_model="tiny",
        data_dir=tmp_path,
        database_url=server.new_schema(),
    )
    server.kill()
    try:
        with running(settings) as client:
            assert degraded(client)()
            assert client.post("/classify", content=png).status_code == 200
            response = client.put("/gallery/images/early", content=blobs(1))
            assert_problem(response, 503, "database-unreachable", "cannot be reached")
            server.start()
            until(lambda: not degraded(client)(), "the service has found its server")
            assert client.put("/gallery/images/early", content=blobs(1)).status_code == 201
            assert client.get("/latency?model=tiny&stage=total").json()["latencies"][0]["count"] == 1
    finally:
        server.start()


def test_writes_of_other_replicas(replicas: list[httpx.Client]) -> None:
    one, other = replicas
    for number in range(20):
        id, content = f"shared-{number}", blobs(number)
        assert one.put(f"/gallery/images/{id}", content=content).status_code == 201
        found = other.post("/retrieve-similar?k=1", content=content).json()["matches"]
        assert [(match["id"], match["duplicate"]) for match in found] == [(id, "exact")]
        assert other.put(f"/gallery/images/{id}", content=content).status_code == 200
        assert other.delete(f"/gallery/images/{id}").status_code == 204
        assert one.get(f"/gallery/images/{id}").status_code == 404
        assert one.post("/retrieve-similar?k=1", content=content).json()["matches"] == []
