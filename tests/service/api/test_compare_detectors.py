"""POST /compare with detectors: their objects side by side, and classifiers beside them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from service.api.inference.compare import CompareResponse
from tests.conftest import make_tiny_model
from tests.helpers.command_line import weighin
from tests.helpers.detectors import save_detector
from tests.helpers.problems import assert_problem


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two detectors that agree, one that finds only what is bright, and one of another label set."""
    folder = tmp_path_factory.mktemp("zoo")
    make_tiny_model(folder, "tiny")
    save_detector(folder, "one", "centre-points")
    save_detector(folder, "other", "ssd-anchors")
    save_detector(folder, "strict", "decoded-boxes", detection={"min_score": 0.9})
    save_detector(folder, "foreign", labels="other-colours")
    return folder


@pytest.fixture(scope="module")
def client(serve_for_module: Callable[..., httpx.Client], zoo: Path) -> httpx.Client:
    return serve_for_module(model_dirs=(zoo,), default_detector="one")


@pytest.fixture(scope="module")
def squares() -> bytes:
    """A red square that fills a cell of the networks, and a darker blue one."""
    image = Image.new("RGB", (64, 64))
    image.paste((255, 0, 0), (16, 16, 20, 20))
    image.paste((0, 0, 180), (40, 40, 44, 44))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def compared(client: httpx.Client, squares: bytes, **query: Any) -> CompareResponse:
    answer = client.post("/compare", params=query, content=squares)
    assert answer.status_code == 200, answer.text
    return CompareResponse.model_validate_json(answer.content, strict=True)


def test_objects_side_by_side(client: httpx.Client, squares: bytes) -> None:
    body = compared(client, squares, models="one,other,strict", repeat=5)
    assert (body.baseline, body.agreement) == ("one", None)
    counts = {result.model: len(result.detections or ()) for result in body.results}
    assert counts == {"one": 2, "other": 2, "strict": 1}
    assert body.objects is not None
    red, blue = body.objects
    assert (red.label, red.box.left, red.box.bottom) == ("red", 12, 24)
    assert set(red.found_by) == {"one", "other", "strict"}
    assert (red.iou, blue.iou) == (1, 1)
    assert set(blue.found_by) == {"one", "other"}
    for result in body.results:
        assert result.predictions == []
        assert result.timings_ms.nms is not None
        assert result.latency_ms.count == 5
        assert result.detections is not None
        for found in body.objects:
            if result.model in found.found_by:
                assert result.detections[found.found_by[result.model]].label == found.label


def test_what_only_one_found(client: httpx.Client, squares: bytes) -> None:
    body = compared(client, squares, models="strict,one")
    assert [sorted(found.found_by) for found in body.objects or ()] == [["one", "strict"], ["one"]]
    assert [found.iou for found in body.objects or ()] == [1, None]


def test_as_detect(client: httpx.Client, squares: bytes) -> None:
    body = client.post("/compare?models=one&min_score=0.9", content=squares).json()
    alone = client.post("/detect?model=one&min_score=0.9", content=squares).json()
    assert body["results"][0]["detections"] == alone["detections"]
    assert len(alone["detections"]) == 1


def test_default_models_are_classifiers(client: httpx.Client, squares: bytes) -> None:
    body = client.post("/compare", content=squares).json()
    assert [result["model"] for result in body["results"]] == ["tiny"]
    assert "objects" not in body
    assert "detections" not in body["results"][0]
    assert "nms" not in body["results"][0]["timings_ms"]


def test_tasks_are_mixed_only_on_request(client: httpx.Client, squares: bytes) -> None:
    answer = client.post("/compare?models=one,tiny", content=squares)
    assert_problem(
        answer,
        422,
        "invalid-parameter",
        "different tasks (image-classification, object-detection) (allowed: one, or mix_tasks=true)",
    )
    body = compared(client, squares, models="one,tiny", mix_tasks="true", top_k=2)
    by_model = {result.model: result for result in body.results}
    assert len(by_model["tiny"].predictions) == 2
    assert len(by_model["one"].detections or ()) == 2
    assert by_model["tiny"].detections is None
    assert body.agreement is not None
    assert body.agreement.top1 == 1
    assert body.baseline == "tiny"


def test_label_sets_are_mixed_only_on_request(client: httpx.Client, squares: bytes) -> None:
    answer = client.post("/compare?models=one,foreign", content=squares)
    assert_problem(answer, 422, "invalid-parameter", "different label sets (colours, other-colours)")
    body = compared(client, squares, models="one,foreign", mix_labels="true")
    assert [len(found.found_by) for found in body.objects or ()] == [2, 2]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"models": "one", "top_k": 3}, "top_k 3: no classifier is compared (allowed: leave it out)"),
        ({"models": "tiny", "min_score": 0.5}, "min_score 0.5: no detector is compared"),
        ({"models": "one", "min_score": 1.5}, "min_score 1.5: out of range (allowed: 0 to 1)"),
        ({"models": "one,tiny", "mix_tasks": "true", "top_k": 11}, "top_k 11: out of range"),
    ],
)
def test_invalid_parameters(client: httpx.Client, squares: bytes, query: dict[str, Any], words: str) -> None:
    assert_problem(client.post("/compare", params=query, content=squares), 422, "invalid-parameter", words)


def test_runs_are_recorded(client: httpx.Client, squares: bytes) -> None:
    compared(client, squares, models="other", repeat=4)
    rows = client.get("/latency?model=other&regime=compare").json()["latencies"]
    assert {row["stage"]: row["count"] for row in rows}["nms"] >= 4


def test_command(zoo: Path, squares: bytes, tmp_path: Path) -> None:
    photo = tmp_path / "squares.png"
    photo.write_bytes(squares)
    result = weighin(
        zoo, tmp_path / "data", "compare", str(photo), "--models", "tiny,strict,one", "--repeat", "3",
        default_model="tiny",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[3][:8] == ["model", "objects", "found", "by", "all", "by", "it", "alone"]
    assert lines[4][:4] == ["strict", "1", "1", "0"]
    assert lines[5][:4] == ["one", "2", "1", "1"]
