"""GET /models, with broken models; /healthz and /readyz; /docs and the OpenAPI document."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.zoo.card import read_card
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.problems import assert_problem
from tests.helpers.swap import replace_model
from tests.helpers.until import until
from tests.service.conftest import running


def test_models_with_their_cards(client: httpx.Client, tiny_models_dir: Path) -> None:
    models = client.get("/models").json()["models"]
    assert [(model["name"], model["loaded"], model["reason"]) for model in models] == [
        ("tiny", True, None),
        ("tiny-b", True, None),
    ]
    for model in models:
        assert model["card"] == read_card(tiny_models_dir / model["name"]).model_dump(mode="json")
        assert client.get(f"/models/{model['name']}").json() == model
    assert_problem(client.get("/models/nope"), 404, "unknown-model", "'nope'")


def test_broken_model(tmp_path: Path, png: bytes) -> None:
    make_tiny_model(tmp_path / "zoo", "good")
    (make_tiny_model(tmp_path / "zoo", "broken") / "model.onnx").unlink()
    settings = Settings(model_dirs=(tmp_path / "zoo",), default_model="good", data_dir=tmp_path / "data")
    with running(settings) as client:
        broken, good = client.get("/models").json()["models"]
        assert (good["loaded"], good["reason"]) == (True, None)
        assert broken["loaded"] is False
        assert broken["reason"] == "its file model.onnx is missing"
        answer = client.post("/classify?model=broken", content=png)
        assert_problem(answer, 503, "model-unavailable", "model.onnx is missing")
        assert client.post("/classify", content=png).status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {
            "status": "ready",
            "degraded": None,
            "models_loaded": 1,
            "models_broken": 1,
            "broken": [{"model": "broken", "reason": "its file model.onnx is missing"}],
            "failing": [],
            "refused": [],
        }


def test_health_without_models(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    settings = Settings(model_dirs=(tmp_path / "zoo",), data_dir=tmp_path / "data")
    with running(settings) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "no-models")


def test_docs_page_is_self_contained(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert len(links) >= 3
    assert all(link.startswith("/") for link in links)
    for link in links:
        assert client.get(link).status_code == 200


def test_documented_errors(openapi: dict[str, Any]) -> None:
    assert openapi["components"]["schemas"]["Problem"]
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (method, path)
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path != "/readyz":
                    form = "json" if path.startswith("/v2") else "problem+json"
                    assert list(response["content"]) == [f"application/{form}"], (method, path, status)
                    assert response["description"]
    classify = openapi["paths"]["/classify"]["post"]
    assert set(classify["responses"]) >= {"200", "400", "403", "404", "413", "415", "422", "503", "504"}
    infer = openapi["paths"]["/v2/models/{name}/infer"]["post"]
    assert set(infer["responses"]) == {
        *("200", "400", "403", "404", "408", "413", "415", "422", "431", "503", "504")
    }
    for status, response in infer["responses"].items():
        if status != "200":
            error = response["content"]["application/json"]
            assert error["schema"] == {"$ref": "#/components/schemas/ProtocolError"}
            assert all(list(example["value"]) == ["error"] for example in error["examples"].values())
    assert openapi["components"]["schemas"]["ProtocolError"]["properties"]["error"]
    assert set(infer["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}
    asked = infer["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert set(asked) == {"id", "parameters", "inputs", "outputs"}
    assert "data" in asked["inputs"]["items"]["properties"]
    assert "multipart/form-data" in classify["requestBody"]["content"]
    assert openapi["components"]["schemas"]["ClassifyTimings"]["properties"]["queue"]["examples"]


def test_metrics_of_recorded_requests(serve: Callable[..., httpx.Client], png: bytes) -> None:
    client = serve()
    for _ in range(3):
        client.post("/classify", content=png)
    client.post("/classify", content=b"text")
    client.post("/classify?model=nope", content=png)
    text = client.get("/metrics").text
    assert re.search(
        r'weighin_stage_duration_seconds_count{model="tiny",regime="live",stage="inference"} 3', text
    )
    assert re.search(r'weighin_errors_total{[^}]*"unknown-image-type"[^}]*} 1', text)
    assert "nope" not in text
    assert "weighin_build_info" in text


@pytest.mark.slow
def test_a_refused_update_and_a_missing_default_model_are_said(tmp_path: Path, png: bytes) -> None:
    for name in ("kept", "first"):
        make_tiny_model(tmp_path / "zoo", name)
    settings = Settings(model_dirs=(tmp_path / "zoo",), default_model="first", data_dir=tmp_path / "data")
    with running(settings) as client:
        version = client.get("/models/kept").json()["version"]
        assert version == read_card(tmp_path / "zoo/kept").file.sha256
        (tmp_path / "zoo/kept/model.onnx").unlink()
        shutil.rmtree(tmp_path / "zoo/first")
        until(lambda: client.get("/readyz").json()["refused"] != [], "the change is seen")
        until(lambda: client.get("/models/first").status_code == 404, "the removal is seen")
        ready = client.get("/readyz")
        assert ready.status_code == 200
        reason = "its file model.onnx is missing"
        assert ready.json()["refused"] == [{"model": "kept", "reason": reason}]
        assert ready.json()["broken"] == [
            {"model": "first", "reason": "it is WEIGHIN_DEFAULT_MODEL, but there is no such model"}
        ]
        assert (ready.json()["models_loaded"], ready.json()["models_broken"]) == (1, 1)
        model = client.get("/models/kept").json()
        assert (model["loaded"], model["version"], model["refused"]) == (True, version, reason)
        assert client.post("/classify?model=kept", content=png).status_code == 200
        assert_problem(client.post("/classify", content=png), 404, "unknown-model", "'first'")


@pytest.mark.slow
def test_latencies_of_a_replaced_model_are_those_of_its_version(tmp_path: Path, png: bytes) -> None:
    folder = make_tiny_model(tmp_path / "data/models", "mine", seed=1)
    (tmp_path / "zoo").mkdir()
    settings = Settings(model_dirs=(tmp_path / "zoo",), default_model="mine", data_dir=tmp_path / "data")

    def count(query: str = "") -> list[int]:
        rows = client.get(f"/latency?stage=total{query}").json()["latencies"]
        points = client.get(f"/latency/history?stage=total&since=1h{query}").json()["points"]
        spread = client.get(f"/latency/distribution?model=mine&since=1h{query}").json()["count"]
        assert sum(row["count"] for row in rows) == sum(point["count"] for point in points) == spread
        return [row["count"] for row in rows]

    with running(settings) as client:
        old = client.get("/models/mine").json()["version"]
        for _ in range(3):
            client.post("/classify", content=png)
        assert count() == [3]
        assert client.get("/latency").json()["other_versions"] == []
        new = replace_model(folder, seed=2)
        until(lambda: client.get("/models/mine").json()["version"] == new, "the new version is served")
        client.post("/classify", content=png)
        assert count() == [1]
        assert count("&version=all") == [4]
        assert count(f"&version={old[:8]}") == [3]
        body = client.get("/latency").json()
        assert (body["version"], body["other_versions"]) == ("current", [{"model": "mine", "version": old}])
        page = client.get("/dashboard").text
        assert f"mine {old[:12]}" in page
        assert new[:12] not in page
        assert 'value="all" selected' in client.get("/dashboard?version=all").text
        assert f"mine {new[:12]}" in client.get(f"/dashboard?version={old[:12]}").text
        for wrong in ("", "abc", "ABCD", "g" * 8, "a" * 65, "newest"):
            answer = client.get(f"/latency?version={wrong}")
            assert_problem(answer, 422, "invalid-parameter", "version")
        metrics = client.get("/metrics").text
        assert old[:12] not in metrics
        assert new[:12] not in metrics
    with running(settings) as client:
        assert count() == [1]
        assert count(f"&version={old}") == [3]
