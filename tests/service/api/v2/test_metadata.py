"""GET /v2 and its health and metadata, and POST /v2/repository/index."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.helpers.inference_protocol import assert_protocol_error
from tests.service.conftest import running


def test_server(client: httpx.Client) -> None:
    assert client.get("/v2").json() == {
        "name": "weighin",
        "version": version("weighin"),
        "extensions": ["binary_tensor_data", "classification", "encoded_images"],
    }
    assert client.get("/v2/health/live").json() == {"live": True}
    ready = client.get("/v2/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True})


def test_model(client: httpx.Client) -> None:
    sha256 = client.get("/models/tiny").json()["version"]
    expected = {
        "name": "tiny",
        "versions": [sha256],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 3, 32, 32]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "embedding", "datatype": "FP32", "shape": [-1, 8]},
            {"name": "features", "datatype": "FP32", "shape": [-1, 8, 16, 16]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        ],
    }
    for path in ("", f"/versions/{sha256}", f"/versions/{sha256[:4].upper()}"):
        assert client.get(f"/v2/models/tiny{path}").json() == expected
        assert client.get(f"/v2/models/tiny{path}/ready").json() == {"name": "tiny", "ready": True}
    (input_,) = client.get("/v2/models/variant").json()["inputs"]
    assert input_ == {"name": "pixels:0", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}
    outputs = client.get("/v2/models/colours").json()["outputs"]
    assert {output["name"]: (output["datatype"], output["shape"]) for output in outputs} == {
        "heatmap": ("FP32", [-1, 3, 16, 16]),
        "size": ("FP32", [-1, 2, 16, 16]),
        "offset": ("FP32", [-1, 2, 16, 16]),
        "landmarks": ("FP32", [-1, 2, 16, 16]),
        "detected_boxes": ("FP32", [-1, -1, 4]),
        "detected_scores": ("FP32", [-1, -1]),
        "detected_class_ids": ("INT64", [-1, -1]),
        "detected_labels": ("BYTES", [-1, -1]),
        "detected_counts": ("INT64", [-1]),
        "detected_landmarks": ("FP32", [-1, -1, 1, 2]),
    }


@pytest.mark.parametrize("path", ["", "/ready", "/versions/1", "/versions/1/ready", "/versions/abcd"])
def test_unknown_model_or_version(client: httpx.Client, path: str) -> None:
    assert_protocol_error(client.get(f"/v2/models/none{path}"), 404, "model 'none': unknown")
    if "versions" in path:
        assert_protocol_error(client.get(f"/v2/models/tiny{path}"), 404, "model 'tiny': no version")


def test_broken_model(client: httpx.Client) -> None:
    ready = client.get("/v2/models/broken/ready")
    assert (ready.status_code, ready.json()) == (503, {"name": "broken", "ready": False})
    assert ready.headers["retry-after"] == "1"
    assert_protocol_error(client.get("/v2/models/broken"), 503, "cannot be served")


def test_index(client: httpx.Client) -> None:
    every = client.post("/v2/repository/index").json()
    assert {one["name"]: one["state"] for one in every} == {
        "boxes-first": "READY",
        "broken": "UNAVAILABLE",
        "colours": "READY",
        "tiny": "READY",
        "variant": "READY",
    }
    reasons = {one["name"]: one["reason"] for one in every}
    assert reasons["broken"]
    assert not reasons["tiny"]
    ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert [one["name"] for one in ready] == ["boxes-first", "colours", "tiny", "variant"]
    for body in (b"{", b"[]", b'{"ready":1}'):
        assert_protocol_error(client.post("/v2/repository/index", content=body), 400, "request:")
    assert_protocol_error(client.post("/v2/repository/index", content=bytes(100_001)), 413)


def test_no_models(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    with running(Settings(model_dirs=(tmp_path / "zoo",), data_dir=tmp_path / "data")) as client:
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"ready": False})
        assert client.get("/v2/health/live").status_code == 200
        assert client.post("/v2/repository/index").json() == []


def test_probes_ignore_parameters(client: httpx.Client) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"):
        assert client.get(f"{path}?probe=1").status_code == 200
    assert_protocol_error(client.get("/v2/models/tiny?x=1"), 422, "unknown query parameter 'x'")
