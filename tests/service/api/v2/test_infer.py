"""POST /v2/models/{name}/infer: tensors and images, batches, outputs, and what is recorded."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.zoo.card import InputSpec, read_card, write_card
from models.zoo.preprocess import preprocess
from service.api.v2 import tensors
from service.settings import Settings
from tests.conftest import TINY_CLASSES, make_tiny_model
from tests.helpers.inference_protocol import (
    assert_protocol_error,
    body_of,
    images,
    infer,
    outputs_of,
    tensor,
)
from tests.service.api.test_detect_api import BLUE, GREEN, RED, encoded, scene
from tests.service.conftest import running

TINY = InputSpec(height=32, width=32, resize=36, mean=(127.0,) * 3, std=(128.0,) * 3, interpolation="bicubic")


def tiny_tensor(*pictures: bytes) -> NDArray[np.float32]:
    """Return what the network `tiny` gets of these pictures."""
    pixels = [np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures]
    return np.concatenate([preprocess(each, TINY) for each in pixels])


@pytest.fixture(scope="module")
def other() -> bytes:
    """Return a second picture."""
    noise = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)
    return encoded(Image.fromarray(noise))


def test_an_image_is_classified_as_on_the_other_route(client: httpx.Client, png: bytes) -> None:
    found = infer(
        client, "tiny", images(png), ["logits", ("probabilities", {"classification": 3}), "embedding"]
    )
    best = client.post("/classify?model=tiny&top_k=3", content=png).json()["predictions"]
    assert found["logits"].shape == (1, TINY_CLASSES)
    assert found["embedding"].shape == (1, 8)
    shown = [text.split(":") for text in found["probabilities"][0]]
    assert [(int(number), label) for _, number, label in shown] == [
        (one["class_id"], one["label"]) for one in best
    ]
    assert [float(value) for value, *_ in shown] == pytest.approx(
        [one["probability"] for one in best], abs=2e-6
    )
    shares = infer(client, "tiny", images(png))["probabilities"]
    expected = np.exp(found["logits"] - found["logits"].max())
    np.testing.assert_allclose(shares, expected / expected.sum(), rtol=1e-5)


def test_a_tensor_gives_what_its_image_gives(client: httpx.Client, png: bytes) -> None:
    values = tiny_tensor(png)
    by_image = infer(client, "tiny", images(png))
    assert list(by_image) == ["logits", "probabilities"]
    by_tensor = infer(client, "tiny", tensor(values))
    assert list(by_tensor) == list(by_image)
    for name, expected in by_image.items():
        np.testing.assert_array_equal(by_tensor[name], expected)
    for data in (values.ravel().tolist(), values.tolist()):
        asked = {"name": "image", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": data}
        response = client.post("/v2/models/tiny/infer", json={"inputs": [asked]})
        assert response.headers["content-type"] == "application/json"
        in_text = outputs_of(response)
        np.testing.assert_array_equal(in_text["logits"], by_image["logits"])


def test_images_in_json_are_base64(client: httpx.Client, png: bytes) -> None:
    text = base64.b64encode(png).decode()
    for shape, data in (([1], [text]), ([2], [text, text]), ([2, 1], [[text], [text]])):
        asked = {"name": "image", "datatype": "BYTES", "shape": shape, "data": data}
        found = outputs_of(client.post("/v2/models/tiny/infer", json={"inputs": [asked]}))
        assert found["logits"].shape == (shape[0], TINY_CLASSES)
        expected = infer(client, "tiny", images(png))["logits"]
        np.testing.assert_array_equal(found["logits"], expected.repeat(shape[0], axis=0))


def test_batches_keep_their_order(client: httpx.Client, png: bytes, other: bytes) -> None:
    one, two = (infer(client, "tiny", images(picture))["logits"] for picture in (png, other))
    assert not np.allclose(one, two)
    expected = np.concatenate((one, two, two, one))
    outputs = ["logits", ("probabilities", {"classification": 1})]
    found = infer(client, "tiny", images(png, other, other, png), outputs)
    np.testing.assert_array_equal(found["logits"], expected)
    assert [row[0].split(":")[1] for row in found["probabilities"]] == [str(row.argmax()) for row in expected]
    by_tensor = infer(client, "tiny", tensor(tiny_tensor(png, other, other, png)), ["logits", "features"])
    np.testing.assert_array_equal(by_tensor["logits"], expected)
    assert by_tensor["features"].shape == (4, 8, 16, 16)


def test_each_output_in_the_form_that_is_asked_for(client: httpx.Client, png: bytes) -> None:
    outputs = [("logits", {"binary_data": False}), ("embedding", {"binary_data": True}), "probabilities"]
    response = client.post("/v2/models/tiny/infer", **body_of(images(png), outputs))
    length = int(response.headers["Inference-Header-Content-Length"])
    answer = json.loads(response.content[:length])
    assert [(one["name"], "data" in one) for one in answer["outputs"]] == [
        ("logits", True),
        ("embedding", False),
        ("probabilities", False),
    ]
    assert response.headers["content-type"] == "application/octet-stream"
    as_json = body_of(images(png), outputs[:1])
    response = client.post("/v2/models/tiny/infer", **as_json)
    assert "Inference-Header-Content-Length" not in response.headers
    assert response.headers["content-type"] == "application/json"


def test_more_classes_than_there_are(client: httpx.Client, png: bytes) -> None:
    outputs = [("probabilities", {"classification": count}) for count in (TINY_CLASSES, 10**18)]
    all_classes, more = (infer(client, "tiny", images(png), [one])["probabilities"] for one in outputs)
    assert len(more[0]) == TINY_CLASSES
    assert more == all_classes


def test_parameters_may_be_null(client: httpx.Client, png: bytes) -> None:
    text = base64.b64encode(png).decode()
    asked = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text], "parameters": None}
    request = {"inputs": [asked], "outputs": [{"name": "logits", "parameters": None}], "parameters": None}
    response = client.post("/v2/models/tiny/infer", json=request)
    assert response.status_code == 200, response.text


def test_id_and_version_are_returned(client: httpx.Client, png: bytes) -> None:
    version = client.get("/models/tiny").json()["version"]
    for path in (
        "/v2/models/tiny",
        f"/v2/models/tiny/versions/{version}",
        f"/v2/models/tiny/versions/{version[:8]}",
    ):
        content = body_of(images(png), [("logits", {"binary_data": False})], id="á 42")
        answer = client.post(f"{path}/infer", **content).json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", version, "á 42")
    assert (
        "id"
        not in client.post(
            "/v2/models/tiny/infer", **body_of(images(png), [("logits", {"binary_data": False})])
        ).json()
    )


def test_a_graph_in_another_layout_and_type(client: httpx.Client) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    by_image = infer(
        client, "variant", images(*(encoded(Image.fromarray(one)) for one in pixels), name="pixels:0")
    )
    by_tensor = infer(client, "variant", tensor(pixels, "pixels:0"))
    assert list(by_tensor) == ["scores:0", "probabilities"]
    np.testing.assert_array_equal(by_tensor["scores:0"], by_image["scores:0"])
    asked = {"name": "pixels:0", "datatype": "UINT8", "shape": [2, 8, 8, 3], "data": pixels.tolist()}
    response = client.post("/v2/models/variant/infer", json={"inputs": [asked]})
    np.testing.assert_array_equal(outputs_of(response)["scores:0"], by_image["scores:0"])
    asked["data"] = (pixels / 2).tolist()
    response = client.post("/v2/models/variant/infer", json={"inputs": [asked]})
    assert_protocol_error(response, 400, "whole numbers from 0 to 255")


SQUARES = encoded(scene((320, 320), (RED, (60, 80, 80, 100)), (BLUE, (220, 200, 240, 220))))
SQUARE = encoded(scene((160, 320), (GREEN, (60, 80, 80, 100))))


def test_objects_are_those_of_the_other_route(client: httpx.Client) -> None:
    objects = client.post("/detect?model=colours", content=SQUARES).json()["detections"]
    assert len(objects) > 1
    found = infer(client, "colours", images(SQUARES))
    assert list(found)[:3] == ["heatmap", "size", "offset"]
    assert found["heatmap"].shape == (1, 3, 16, 16)
    assert found["detected_counts"].tolist() == [len(objects)]
    assert found["detected_labels"] == [[one["label"] for one in objects]]
    assert found["detected_class_ids"].tolist() == [[one["class_id"] for one in objects]]
    np.testing.assert_allclose(found["detected_scores"][0], [one["score"] for one in objects], atol=1e-6)
    np.testing.assert_allclose(
        found["detected_boxes"][0], [list(one["box"].values()) for one in objects], rtol=1e-6
    )
    points = [[[point["x"], point["y"]] for point in one["landmarks"]] for one in objects]
    np.testing.assert_allclose(found["detected_landmarks"][0], points, rtol=1e-6)


def test_parameters_of_a_detection(client: httpx.Client) -> None:
    asked: tuple[tuple[dict[str, Any], str], ...] = (
        ({"max_detections": 1}, "max_detections=1"),
        ({"classes": "blue"}, "classes=blue"),
        ({"min_score": 1}, "min_score=1"),
        ({"unknown": [1], "priority": 3}, "min_score=0.5"),
    )
    for parameters, query in asked:
        found = infer(client, "colours", images(SQUARES), ["detected_labels"], parameters=parameters)
        objects = client.post(f"/detect?model=colours&{query}", content=SQUARES).json()["detections"]
        assert found["detected_labels"] == [[one["label"] for one in objects]]


def test_a_batch_of_detections_is_padded(client: httpx.Client) -> None:
    empty = encoded(scene((50, 50)))
    found = infer(client, "colours", images(empty, SQUARES, SQUARE))
    most = max(found["detected_counts"])
    assert found["detected_counts"].tolist() == [0, most, 1]
    assert found["detected_boxes"].shape == (3, most, 4)
    assert found["detected_landmarks"].shape == (3, most, 1, 2)
    assert found["detected_class_ids"][2].tolist() == [1, *[-1] * (most - 1)]
    assert found["detected_labels"][2] == ["green", *[""] * (most - 1)]
    assert (found["detected_scores"][0] == 0).all()
    none = infer(client, "colours", images(empty))
    assert none["detected_boxes"].shape == (1, 0, 4)
    assert none["detected_labels"] == [[]]


def test_a_detector_runs_on_tensors(client: httpx.Client) -> None:
    red = np.zeros((2, 3, 64, 64), np.float32)
    red[1, 0] = 1
    found = infer(client, "colours", tensor(red))
    assert list(found) == ["heatmap", "size", "offset", "landmarks"]
    assert found["heatmap"].shape == (2, 3, 16, 16)
    assert found["heatmap"][1, 0].min() > found["heatmap"][0].max()
    response = client.post("/v2/models/colours/infer", **body_of(tensor(red), ["detected_boxes"]))
    assert_protocol_error(response, 400, "detected_boxes", "of images only")


def test_outputs_whose_size_depends_on_the_image(client: httpx.Client) -> None:
    alone = infer(client, "boxes-first", images(SQUARES))
    objects = client.post("/detect?model=boxes-first", content=SQUARES).json()["detections"]
    assert alone["detected_labels"] == [[one["label"] for one in objects]]
    metadata = client.get("/v2/models/boxes-first").json()
    shapes = {output["name"]: output["shape"] for output in metadata["outputs"]}
    assert shapes["boxes"] == [-1, -1, 4]
    assert alone["boxes"].shape[::2] == (1, 4)
    both = infer(client, "boxes-first", images(SQUARES, SQUARE))
    assert both["detected_counts"].shape == (2,)
    assert set(alone) - set(both) == {"boxes", "classes", "scores"}
    assert set(both) < set(alone)
    response = client.post("/v2/models/boxes-first/infer", **body_of(images(SQUARES, SQUARE), ["boxes"]))
    assert_protocol_error(response, 400, "output 'boxes': its size depends on the image: 2 images (allowed")


def latencies(client: httpx.Client, model: str) -> Counter[str]:
    """Return how many runs each stage has."""
    rows = client.get(f"/latency?model={model}&regime=live").json()["latencies"]
    return Counter({row["stage"]: row["count"] for row in rows})


def test_what_is_recorded(client: httpx.Client, png: bytes, other: bytes) -> None:
    """Images are recorded one by one, as on the other routes; of tensors, what they have in common."""
    shared = Counter(("queue", "decode", "preprocess", "inference"))

    def added(model: str, given: tuple[dict[str, Any], bytes], *outputs: str) -> Counter[str]:
        before = latencies(client, model)
        infer(client, model, given, outputs or None)
        return latencies(client, model) - before

    every = shared + Counter(("postprocess", "total"))
    assert added("tiny", images(png)) == every
    assert added("tiny", images(png, other, png)) == every + every + every
    assert added("tiny", images(png), "features", "logits") == shared
    assert added("tiny", tensor(tiny_tensor(png, other))) == Counter(queue=2, inference=2)
    assert added("colours", images(SQUARES)) == every + Counter(("nms",))
    assert added("colours", images(SQUARES), "heatmap") == shared


def test_timings_of_one_image(client: httpx.Client, png: bytes) -> None:
    response = client.post("/v2/models/tiny/infer", **body_of(images(png)))
    stages = [entry.partition(";dur=")[0] for entry in response.headers["Server-Timing"].split(", ")]
    assert stages == ["queue", "decode", "preprocess", "inference", "postprocess", "total"]
    two = client.post("/v2/models/tiny/infer", **body_of(images(png, png)))
    assert "Server-Timing" not in two.headers


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (np.nan, "input 'image': not finite: 3072 of 3072 numbers"),
        (np.inf, "input 'image': not finite: 3072 of 3072 numbers"),
        (
            3e38,
            "numbers that no image gives (-1.012 to 1.02): model 'tiny' failed: output 'logits'",
        ),
    ],
)
def test_numbers_that_break_the_network_are_the_clients(
    client: httpx.Client, number: float, words: str
) -> None:
    """A model does not count as failing because a client sends numbers that no image gives."""
    values = np.full((1, 3, 32, 32), number, np.float32)
    response = client.post("/v2/models/tiny/infer", **body_of(tensor(values)))
    assert_protocol_error(response, 400, words)
    assert client.get("/readyz").json()["failing"] == []
    assert client.get("/v2/models/tiny/ready").status_code == 200


def test_a_result_whose_name_the_graph_uses(tmp_path: Path) -> None:
    """The network's own output has the name, as its users expect."""
    folder = make_tiny_model(tmp_path, "tiny")
    card = read_card(folder)
    outputs = {**card.outputs, "names": {"logits": "probabilities"}}
    changed = card.model_copy(update={"schema_version": 2, "outputs": outputs})
    write_card(folder, changed)
    found = tensors.outputs_of(read_card(folder))
    assert list(found) == ["probabilities", "embedding", "features"]
    assert found["probabilities"].role == "logits"


@pytest.mark.openvino
def test_the_chosen_runtime_runs_it(
    tmp_path: Path, tiny_models_dir: Path, client: httpx.Client, png: bytes
) -> None:
    """OpenVINO computes predictions, of images and tensors; ONNX Runtime the other outputs."""
    settings = Settings(
        model_dirs=(tiny_models_dir,), default_model="tiny", data_dir=tmp_path / "data", runtime="openvino"
    )
    with running(settings) as service:
        assert service.get("/v2/models/tiny").json()["platform"] == "openvino_onnx"
        expected = infer(client, "tiny", images(png, png))["logits"]
        for request in (images(png, png), tensor(tiny_tensor(png, png))):
            np.testing.assert_allclose(infer(service, "tiny", request)["logits"], expected, atol=0.1)
        assert infer(service, "tiny", images(png), ["embedding", "logits"])["embedding"].shape == (1, 8)
        (label,) = {entry for entry in ran(service, "tiny") if entry.startswith("openvino")}
        assert ran(service, "tiny") == {label, "onnxruntime"}
        rows = service.get(f"/latency?model=tiny&regime=live&runtime={label}").json()["latencies"]
        assert {row["stage"]: row["count"] for row in rows if row["count"]}["inference"] == 4


def ran(client: httpx.Client, model: str) -> set[str]:
    """Return what ran a model."""
    entries = client.get(f"/latency?model={model}&regime=live").json()["runtimes"]
    return {entry["runtime"] for entry in entries}
