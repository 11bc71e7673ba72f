"""GET /models, with broken models; /healthz and /readyz; /docs and the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx

from models.zoo.card import read_card
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.problems import assert_problem
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


def test_documented_errors(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["schemas"]["Problem"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (method, path)
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path != "/readyz":
                    assert list(response["content"]) == ["application/problem+json"], (method, path, status)
                    assert response["description"]
    classify = document["paths"]["/classify"]["post"]
    assert set(classify["responses"]) >= {"200", "400", "403", "404", "413", "415", "422", "503", "504"}
    assert "multipart/form-data" in classify["requestBody"]["content"]
    assert document["components"]["schemas"]["ClassifyTimings"]["properties"]["queue"]["examples"]


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
