"""Benchmarks of replicas with one PostgreSQL: a replica is killed, or the server stops during a benchmark."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bench.bundle_file import from_json
from service.settings import Settings
from tests.faults.test_benchmark_jobs import descendants, measuring
from tests.helpers.postgres import PostgresServer, postgres_server
from tests.helpers.problems import assert_problem
from tests.helpers.process import service_process
from tests.helpers.until import until
from tests.service.bench.test_benchmarks_api import ended, events, start
from tests.service.conftest import running

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server that the tests may kill."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def settings(server: PostgresServer, tiny_models_dir: Path, tmp_path: Path) -> Settings:
    return Settings(
        model_dirs=(tiny_models_dir,),
        default_model="tiny",
        data_dir=tmp_path,
        database_url=server.new_schema(),
    )


def benchmark(client: httpx.Client, identifier: str) -> dict[str, Any]:
    response = client.get(f"/benchmarks/{identifier}")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def no_job_runs() -> bool:
    return not any("service.bench.job" in command for command in descendants(os.getpid()).values())


def test_killed_replica(
    settings: Settings, tiny_models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.bench.store.SILENT_AFTER_S", 6.0)  # of the replica that is left
    with running(settings) as other:
        with (
            service_process(tiny_models_dir, tmp_path, database_url=settings.database_url) as process,
            process.client() as client,
        ):
            identifier = start(client, models=["tiny"])["id"]
            measuring(client, identifier, process.popen.pid)
            process.popen.kill()
            process.wait()
        # Nobody knows yet: the cancellation is stored, and the benchmark is not started twice.
        assert other.delete(f"/benchmarks/{identifier}").status_code == 202
        body = benchmark(other, identifier)
        assert (body["state"], body["cancelling"]) == ("running", True)
        assert_problem(other.post("/benchmarks", json={"models": ["tiny"]}), 503, "busy", identifier)
        body = ended(other, identifier)
        assert (body["state"], body["cancelling"], body["measured"]) == ("interrupted", False, False)
        assert body["detail"] == "the service ended while it ran"
        answer = other.delete(f"/benchmarks/{identifier}")
        assert_problem(answer, 409, "benchmark-ended", "already ended (interrupted)")
        following = start(other, models=["tiny"])["id"]
        other.delete(f"/benchmarks/{following}")
        assert ended(other, following)["state"] == "cancelled"


def test_replica_that_was_cut_off(
    settings: Settings, tiny_models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.bench.store.SILENT_AFTER_S", 3.0)  # of the other one
    with (
        running(settings) as other,
        service_process(tiny_models_dir, tmp_path, database_url=settings.database_url) as process,
        process.client() as client,
    ):
        identifier = start(client, models=["tiny"], profile="standard")["id"]
        with paused(process.popen.pid):
            until(lambda: benchmark(other, identifier)["state"] == "interrupted", "it counts as lost")
        until(lambda: benchmark(other, identifier)["state"] == "running", "it is back")
        assert_problem(other.post("/benchmarks", json={"models": ["tiny"]}), 503, "busy", identifier)
        with paused(process.popen.pid):
            until(lambda: benchmark(other, identifier)["state"] == "interrupted", "it counts as lost again")
            following = start(other, models=["tiny"], profile="standard")["id"]
        body = ended(client, identifier)
        assert body["state"] == "cancelled"
        assert "another benchmark was started on this machine" in body["detail"]
        assert benchmark(other, identifier) == benchmark(client, identifier)
        assert benchmark(other, following)["state"] == "running"
        assert other.delete(f"/benchmarks/{following}").status_code == 202
        assert ended(other, following)["state"] == "cancelled"


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a process meanwhile, so that its replica cannot reach the database; its job goes on."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_restarted_server(server: PostgresServer, settings: Settings) -> None:
    with running(settings) as here, running(settings) as there, ThreadPoolExecutor(1) as threads:
        identifier = start(here, models=["tiny"], profile="standard")["id"]
        watching = threads.submit(lambda: list(events(there, identifier)))
        measuring(here, identifier, os.getpid())
        until(
            lambda: benchmark(there, identifier)["progress"] is not None, "the other replica shows progress"
        )
        server.kill()
        try:
            assert_problem(there.get(f"/benchmarks/{identifier}"), 503, "database-unreachable")
            assert_problem(there.delete(f"/benchmarks/{identifier}"), 503, "database-unreachable")
            done = benchmark(here, identifier)["progress"]["done"]
            until(lambda: benchmark(here, identifier)["progress"]["done"] > done, "the benchmark goes on")
            assert here.delete(f"/benchmarks/{identifier}").status_code == 202
            until(no_job_runs, "the job has ended, before the server is back")
            body = benchmark(here, identifier)
            assert (body["state"], body["cancelling"]) == ("running", True), "not stored yet"
        finally:
            server.start()
        kind, last = watching.result()[-1]
        assert (kind, last["state"], last["detail"]) == ("end", "cancelled", "it was cancelled")
        assert last["measured"]
        for client in (here, there):
            assert benchmark(client, identifier)["state"] == "cancelled"
            assert client.delete(f"/benchmarks/{identifier}").status_code == 200
            bundle = from_json(client.get(f"/benchmarks/{identifier}/bundle").content)
            assert bundle.flags_of("partial")
            assert bundle.blocks


def test_cancellation_survives_the_server(server: PostgresServer, settings: Settings) -> None:
    with running(settings) as here, running(settings) as there:
        identifier = start(here, models=["tiny"], profile="standard")["id"]
        assert there.delete(f"/benchmarks/{identifier}").status_code == 202
        server.kill()
        server.start()
        assert ended(here, identifier)["state"] == "cancelled"
        assert ended(there, identifier)["state"] == "cancelled"
