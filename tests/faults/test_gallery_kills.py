"""kill -9 while images are added, deleted, re-embedded and saved: acknowledged changes persist."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path

import httpx
import pytest

from service.logs import configure_logging
from service.server import serve
from service.settings import Settings
from service.storage.database import FILE_NAME
from tests.faults.gallery_truth import Truth
from tests.helpers.http_client import http_client
from tests.helpers.until import until

pytestmark = pytest.mark.fault

GALLERIES = 4
KILLS = 50
IDS = 24
CLIENTS = 2


def serve_until_killed(models_dir: str, data_dir: str, port: int) -> None:
    """Run a service whose index is approximate, saved and rebuilt after every few changes."""
    from service.gallery.index import embedded

    embedded.SAVE_AFTER_CHANGES = 3
    embedded.SAVE_EVERY_S = 0.0
    embedded.REBUILD_DEAD_NODES = 10
    configure_logging("text", "error")
    serve(
        Settings(
            model_dirs=(Path(models_dir),),
            default_model="tiny",
            data_dir=Path(data_dir),
            port=port,
            gallery_exact_up_to=8,
        )
    )


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts processes with all modules imported, so that two hundred starts are fast."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tests.faults.test_gallery_kills", "service.app"])
    return context


@contextmanager
def service(
    processes: ForkServerContext, models_dir: Path, data_dir: Path
) -> Iterator[tuple[int, httpx.Client]]:
    """Yield the service's process id and a client; the service is killed at the end."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = processes.Process(target=serve_until_killed, args=(str(models_dir), str(data_dir), port))
    process.start()
    assert process.pid is not None
    with http_client(f"http://127.0.0.1:{port}") as client:

        def ready() -> bool:
            assert process.is_alive(), f"it ended by itself: {process.exitcode}"
            try:
                return bool(client.get("/readyz").json()["status"] == "ready")
            except httpx.TransportError:
                return False

        until(ready, "the service is ready")
        try:
            yield process.pid, client
        finally:
            process.kill()
            process.join()


def consistent(data_dir: Path) -> None:
    """Assert that SQLite's integrity check passes and the tables are consistent."""
    with closing(sqlite3.connect(data_dir / FILE_NAME)) as connection:

        def column(query: str) -> list[tuple[object, ...]]:
            return sorted(connection.execute(query).fetchall())

        assert column("PRAGMA integrity_check") == [("ok",)]
        keys = column("SELECT key FROM gallery_images")
        assert column("SELECT key FROM gallery_contents") == keys
        assert column("SELECT key FROM gallery_fields WHERE name = 'seed'") == keys
        [(embedder, count, size)] = column("SELECT embedder, images, bytes FROM gallery_state")
        assert column(f"SELECT key FROM gallery_embeddings WHERE embedder = '{embedder}'") == keys
        assert [(count, size)] == column("SELECT count(*), coalesce(sum(bytes), 0) FROM gallery_images")
        assert column("SELECT key FROM gallery_tombstones INTERSECT SELECT key FROM gallery_images") == []


def change_until_it_dies(url: httpx.URL, truth: Truth, ids: list[str], chance: random.Random) -> None:
    with http_client(url) as client:
        try:
            while True:
                if chance.random() < 0.02:
                    model = chance.choice(("tiny", "tiny-b"))
                    assert client.post(f"/gallery/reindex?model={model}").status_code == 202
                truth.change(client, chance.choice(ids), chance)
        except httpx.TransportError:
            return


@pytest.mark.parametrize("gallery", range(GALLERIES))
def test_two_hundred_kills(
    processes: ForkServerContext, tiny_models_dir: Path, tmp_path: Path, gallery: int
) -> None:
    """Four galleries in parallel, each killed fifty times."""
    chance = random.Random(20 + gallery)
    truth = Truth(IDS)
    ids = list(truth.possible)
    for number in range(gallery * KILLS, (gallery + 1) * KILLS):
        with service(processes, tiny_models_dir, tmp_path) as (pid, client):
            truth.check(client)
            threads = [
                threading.Thread(
                    target=change_until_it_dies,
                    args=(client.base_url, truth, ids[part::CLIENTS], random.Random(number * CLIENTS + part)),
                )
                for part in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            enough = truth.acknowledged + chance.randrange(20)
            while truth.acknowledged < enough:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.03))  # at any moment of what is under way then
            os.kill(pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
        consistent(tmp_path)
    assert truth.refused == []
    assert truth.acknowledged > 5 * KILLS
    with service(processes, tiny_models_dir, tmp_path) as (_, client):
        count = truth.check(client)
        until(lambda: client.get("/gallery").json()["reindexing"] is None, "re-embedding has ended")
        until(
            lambda: (client.get("/gallery").json()["search"] or {}).get("indexed") == count,
            "the index has what the table has",
        )
        assert truth.check(client) == count
    assert (tmp_path / "gallery-index").is_dir()
