"""Faults under load: killed replica, lost node, rolling updates, restarted PostgreSQL, drained stream."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conftest import make_tiny_model
from tests.faults.gallery_truth import Truth
from tests.helpers.http_client import http_client
from tests.helpers.postgres import PostgresServer
from tests.helpers.until import until
from tests.ray.cluster import Answer, Clients, RayCluster, classify, wait_until_gone

pytestmark = pytest.mark.ray

Note = Callable[[str, str], None]


def changes(truth: Truth, ids: list[str], seed: int) -> Callable[[httpx.Client], httpx.Response]:
    """Return a request that puts or deletes one of `ids` in the gallery."""
    chance = random.Random(seed)
    return lambda client: truth.change(client, chance.choice(ids), chance)


def under_load(cluster: RayCluster, truth: Truth, png: bytes) -> Clients:
    """Return four clients: two classify, two change the gallery."""
    ids = list(truth.possible)
    return Clients(
        cluster.url,
        classify(png),
        classify(png),
        changes(truth, ids[::2], 0),
        changes(truth, ids[1::2], 1),
    )


def empty_gallery(cluster: RayCluster) -> None:
    with http_client(cluster.url) as client:
        for image in client.get("/gallery/images?limit=1000").json()["images"]:
            assert client.delete(f"/gallery/images/{image['id']}").status_code == 204


def assert_in_flight(failures: list[Answer], began: float, over: float) -> None:
    """Assert that each failed request began before the replica was gone, and ended after it was killed."""
    assert over - began < 2
    for failure in failures:
        assert failure.started <= over, f"began {failure.started - over:.3f} s after the fault: {failure}"
        assert failure.ended >= began, failure


def test_killed_replica(cluster: RayCluster, png: bytes, note: Note) -> None:
    empty_gallery(cluster)
    truth, before = Truth(16), cluster.wait_for(2)
    with under_load(cluster, truth, png) as clients:
        clients.go_on(200)
        victim = min(before)
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        over = wait_until_gone(victim)
        clients.go_on(500)
        after = cluster.wait_for(2, without={victim})
        back_s = time.monotonic() - over
        clients.go_on(200)
    note(
        "killed replica", f"{len(clients.failures)} of {len(clients.answers)} failed, back in {back_s:.1f} s"
    )
    assert before - {victim} < after
    assert_in_flight(clients.failures, began, over)
    assert len(clients.failures) <= 4  # each client has one request in flight
    with http_client(cluster.url) as client:
        assert truth.check(client) > 0


def test_lost_node(cluster: RayCluster, png: bytes, note: Note) -> None:
    empty_gallery(cluster)
    truth, before = Truth(16), cluster.wait_for(2)
    with under_load(cluster, truth, png) as clients:
        clients.go_on(200)
        began = time.monotonic()
        over = cluster.kill_node()
        clients.go_on(500)
        until(lambda: len(cluster.replicas()) == 1, "Ray has noticed that the node is gone")
        [kept] = cluster.replicas()
        assert kept in before
        clients.go_on(200)
        cluster.add_node()
        after = cluster.wait_for(2)
        clients.go_on(200)
    note("lost node", f"{len(clients.failures)} of {len(clients.answers)} failed")
    assert after - before
    assert_in_flight(clients.failures, began, over)
    with http_client(cluster.url) as client:
        assert truth.check(client) > 0


def test_rolling_updates(cluster: RayCluster, png: bytes, tmp_path: Path, note: Note) -> None:
    """New code, then a new version of a model: every process is another one, and no request fails."""
    empty_gallery(cluster)
    make_tiny_model(tmp_path, seed=7)
    truth, first = Truth(16), cluster.wait_for(2)
    with http_client(cluster.url) as client, under_load(cluster, truth, png) as clients:
        old = client.post("/classify", content=png).json()
        description = client.get("/openapi.json").json()["info"]["description"]
        app = cluster.code / "service/app.py"
        app.write_text(app.read_text().replace("Classifies images", "Second release. Classifies images"))
        cluster.deploy("2")
        second = cluster.wait_for(2, without=first)
        new_description = client.get("/openapi.json").json()["info"]["description"]
        cluster.deploy("2", WEIGHIN_MODEL_DIRS=str(tmp_path))
        third = cluster.wait_for(2, without=first | second)
        new = client.post("/classify", content=png).json()
        clients.go_on(max(0, 5000 - len(clients.answers)))
    note("rolling updates", f"{len(clients.failures)} of {len(clients.answers)} failed")
    assert len(clients.answers) >= 5000
    assert not clients.failures
    assert not first & second
    assert not second & third
    assert description.strip().startswith("Classifies")
    assert new_description.strip().startswith("Second release.")
    assert new["predictions"] != old["predictions"]
    with http_client(cluster.url) as client:
        assert truth.check(client) > 0


def test_restarted_postgresql(cluster: RayCluster, postgres: PostgresServer, png: bytes, note: Note) -> None:
    empty_gallery(cluster)
    truth, before = Truth(16), cluster.wait_for(2)
    ids = list(truth.possible)
    with (
        Clients(cluster.url, classify(png), classify(png)) as readers,
        Clients(cluster.url, changes(truth, ids[::2], 0), changes(truth, ids[1::2], 1)) as writers,
    ):
        writers.go_on(50)
        postgres.kill()
        try:
            until(lambda: len(writers.failures) > 10, "changes are refused")
            readers.go_on(200)
        finally:
            postgres.start()
        writers.go_on(50)
        readers.go_on(200)
    note("PostgreSQL restarted", f"{len(writers.failures)} of {len(writers.answers)} changes refused")
    assert not readers.failures
    assert {failure.status for failure in writers.failures} == {503}
    assert cluster.replicas() == before
    with http_client(cluster.url) as client:
        assert truth.check(client) > 0


def test_stream_ends_when_its_replica_is_drained(cluster: RayCluster, note: Note) -> None:
    before = cluster.wait_for(2)
    ended: list[float] = []
    started = threading.Event()
    with http_client(cluster.url) as client:
        response = client.post("/benchmarks", json={"models": ["tiny"], "profile": "standard"})
        assert response.status_code == 202, response.text
        id = response.json()["id"]

        def watch() -> None:
            with (
                http_client(cluster.url) as watcher,
                watcher.stream("GET", f"/benchmarks/{id}/events") as events,
            ):
                for _ in events.iter_lines():  # raises an error if the connection breaks
                    started.set()
            ended.append(time.monotonic())

        thread = threading.Thread(target=watch)
        thread.start()
        assert started.wait(30)
        began = time.monotonic()
        cluster.deploy("drained")
        thread.join(60)
        cluster.wait_for(2, without=before)
        took = time.monotonic() - began
        assert client.get(f"/benchmarks/{id}").json()["state"] != "running"
    assert len(ended) == 1, "the connection of the stream broke: its replica was killed"
    note("drained stream", f"ended after {ended[0] - began:.1f} s, both replicas replaced after {took:.1f} s")
