"""Replacements of a model under load, and a model that is sent while the disk is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.zoo.card import read_card
from tests.conftest import make_tiny_model
from tests.helpers.disks import small_disk
from tests.helpers.problems import assert_problem
from tests.helpers.process import service_process
from tests.helpers.swap import swap_under_load, versioned_model
from tests.helpers.until import until

pytestmark = pytest.mark.fault

KEY = {"Authorization": "Bearer sesame"}


def test_twenty_swaps_under_eight_clients_lose_no_request(tmp_path: Path, png: bytes) -> None:
    folder = versioned_model(tmp_path / "zoo", "swapped", seed=100)
    make_tiny_model(tmp_path / "zoo", "other")
    process = service_process(tmp_path / "zoo", tmp_path / "data", default_model="other")
    with process as service, service.client() as client:
        answers, swaps = swap_under_load(client.base_url, folder, png, seconds=20, at_least=20)
        row = client.get("/latency?model=swapped&stage=total").json()
        everything = client.get("/latency?model=swapped&stage=total&version=all").json()
        assert service.log.count("model loaded") == swaps
    print(f"{swaps} swaps, {dict(answers.requests)}")  # noqa: T201
    answers.check(swaps)
    assert swaps >= 20
    assert everything["latencies"][0]["count"] == answers.requests["classify"]
    assert row["latencies"][0]["count"] < answers.requests["classify"]
    assert len(row["other_versions"]) == swaps


def test_a_model_that_the_disk_has_no_room_for_leaves_nothing(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "zoo", "tiny")
    model = (make_tiny_model(tmp_path / "made", "sent", seed=1) / "model.onnx").read_bytes()
    with small_disk(tmp_path / "disk", "8m") as disk:
        process = service_process(tmp_path / "zoo", disk, api_key="sesame")
        with process as service, service.client() as client:
            assert client.post("/models", headers=KEY, files=_form(model)).status_code == 201
            version = client.get("/models/sent").json()["version"]
            before = sorted(path.name for path in (disk / "models").rglob("*"))
            for request in (client.post, client.put):
                path = "/models/sent" if request == client.put else "/models?name=large"
                response = request(path, headers=KEY, files=_form(model + b"\0" * 20_000_000))
                assert_problem(response, 507, "storage-unavailable", "full")
            assert sorted(path.name for path in (disk / "models").rglob("*")) == before
            assert client.get("/models/sent").json()["version"] == version
            until(lambda: client.get("/readyz").json()["degraded"] is None, "there is room again")
    assert read_card(tmp_path / "zoo/tiny").name == "tiny"


def _form(model: bytes) -> dict[str, tuple[str, bytes]]:
    labels = "".join(f"thing {number}\n" for number in range(10))
    return {"model": ("sent.onnx", model), "labels": ("labels.txt", labels.encode())}
