"""The service under Ray Serve: what is served, its limits, metrics of each replica, refusals."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.errors import NotReady
from service.inference.registry import Registry
from service.ray_serve import NotShared, Replica, application, read_settings, until_loaded
from tests.helpers.http_client import http_client
from tests.helpers.problems import assert_problem
from tests.helpers.until import until
from tests.ray.cluster import Clients, RayCluster, classify

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("given", "sent"),
    [("a-valid.id_1", "a-valid.id_1"), ("<not> valid", None), ("x" * 129, None), (None, None)],
)
def test_one_request_id(cluster: RayCluster, png: bytes, given: str | None, sent: str | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given}
    with http_client(cluster.url) as client:
        for response in (
            client.post("/classify", content=png, headers=headers),
            client.post("/classify?model=none", content=png, headers=headers),
        ):
            [id] = response.headers.get_list("x-request-id")
            assert id == sent if sent is not None else re.fullmatch(r"[0-9a-f]{16}", id)
            assert response.json()["request_id"] == id
            assert "server" not in response.headers


def test_fields_for_ray_have_no_effect(cluster: RayCluster, png: bytes) -> None:
    with http_client(cluster.url) as client:
        headers = {"X-Request-Timeout-Seconds": "0.000001"}
        assert client.post("/classify", content=png, headers=headers).status_code == 200


def test_full_queue(cluster: RayCluster, slow_png: bytes) -> None:
    """Both replicas refuse what their own queues do not take, with a problem document."""

    def post(_: int) -> httpx.Response:
        with http_client(cluster.url) as client:
            return client.post("/classify", content=slow_png)

    with ThreadPoolExecutor(40) as threads:
        responses = list(threads.map(post, range(40)))
    counts = Counter(response.status_code for response in responses)
    assert counts.keys() <= {200, 503, 504}, counts
    assert counts[503] >= 10, counts
    for response in responses:
        if response.status_code == 503:
            assert_problem(response, 503, "queue-full", "(limit: 8)")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer " + "0" * 64}])
def test_only_who_has_the_token_controls_the_cluster(cluster: RayCluster, headers: dict[str, str]) -> None:
    with http_client(cluster.dashboard_url) as client:
        for request in (client.get, client.delete):
            assert request("/api/serve/applications/", headers=headers).status_code in (401, 403)
    assert cluster.application["status"] == "RUNNING"


def test_prometheus_finds_every_replica(cluster: RayCluster, png: bytes) -> None:
    with http_client(cluster.url) as client:
        groups = client.get("/metrics/replicas").json()
        assert len(groups) == len({group["labels"]["replica"] for group in groups}) == 2
        targets = [target for group in groups for target in group["targets"]]

        def counted() -> list[int]:
            texts = [httpx.get(f"http://{target}/metrics", trust_env=False).text for target in targets]
            labels = r'\{[^}]*model="tiny"[^}]*stage="total"[^}]*\}'
            name = rf"^weighin_stage_duration_seconds_count{labels} ([0-9.]+)$"
            return [int(sum(map(float, re.findall(name, text, re.MULTILINE)))) for text in texts]

        before = counted()
        for _ in range(20):
            assert client.post("/classify", content=png).status_code == 200
        until(lambda: sum(counted()) == sum(before) + 20, "the replicas count 20 more requests together")


def test_load_adds_a_replica(cluster: RayCluster, png: bytes) -> None:
    cluster.deploy(least=1)
    [first] = cluster.wait_for(1)
    with Clients(cluster.url, *[classify(png)] * 8) as clients:
        assert first in cluster.wait_for(2)
    assert not clients.failures
    cluster.wait_for(1)


def test_limits_of_the_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHIN_DATABASE_URL", "postgres://user@host/database")
    monkeypatch.setenv("WEIGHIN_THREADS", "3")
    monkeypatch.setenv("WEIGHIN_MAX_WAITING", "10")
    deployment = application({"release": "2"})._bound_deployment
    assert deployment.max_ongoing_requests == 113
    assert deployment.ray_actor_options["num_cpus"] == 3


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (None, "WEIGHIN_DATABASE_URL: not set, which replicas cannot share"),
        ("sqlite:///weighin.db", "WEIGHIN_DATABASE_URL: 'sqlite:///weighin.db' is a file, which replicas"),
        (
            "mysql://host/database",
            "WEIGHIN_DATABASE_URL 'mysql://host/database': 'mysql://' is not supported",
        ),
    ],
)
def test_refusal_without_postgresql(monkeypatch: pytest.MonkeyPatch, url: str | None, message: str) -> None:
    from ray.serve.exceptions import RayServeException

    monkeypatch.delenv("WEIGHIN_DATABASE_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("WEIGHIN_DATABASE_URL", url)
    with pytest.raises(RayServeException, match=re.escape(message)):
        application({})
    if url is None:  # a replica on a node without the variable
        with pytest.raises(NotShared):
            Replica(1)


def test_unknown_argument() -> None:
    from ray.serve.exceptions import RayServeException

    with pytest.raises(RayServeException, match=r"argument 'threads': unknown \(allowed: release\)"):
        application({"threads": "2"})


def test_replica_without_models_is_not_ready(tiny_models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_models_dir / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny/model.onnx").write_bytes(b"broken")
    registry = Registry([tmp_path], "tiny")
    with pytest.raises(NotReady, match="models: not loaded in time: tiny"):
        asyncio.run(until_loaded(registry, time.monotonic()))
    registry.load()
    with pytest.raises(NotReady, match="models: none can be served: tiny: "):
        asyncio.run(until_loaded(registry, time.monotonic()))


def test_settings_take_reserved_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHIN_DATABASE_URL", "postgres://user@host/database")
    monkeypatch.setenv("WEIGHIN_THREADS", "16")
    assert read_settings(threads=2).threads == 2
