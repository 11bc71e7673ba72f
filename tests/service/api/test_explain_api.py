"""POST /explain: PNG, JSON, and models without an exact map."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from models.zoo.card import Classifier, File, read_card, write_card
from service.settings import Settings
from tests.conftest import TINY_CLASSES, make_tiny_model
from tests.helpers.problems import assert_problem
from tests.service.api.test_overload import posting, until
from tests.service.conftest import running

JSON = {"Accept": "application/json"}


def with_classifier(folder: Path, *, shift: float = 0.0, damage: bool = False) -> None:
    """Store the classifier of a tiny model beside it, with its bias `shift`ed."""
    weights = {
        one.name: numpy_helper.to_array(one)
        for one in onnx.load(folder / "model.onnx").graph.initializer  # type: ignore[attr-defined]
    }
    path = folder / "classifier.npz"
    np.savez(path, weight=weights["head.weight"], bias=weights["head.bias"] + np.float32(shift))
    content = path.read_bytes()
    file = File(name=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    card = read_card(folder)
    write_card(folder, card.model_copy(update={"classifier": Classifier(model=card.name, file=file)}))
    if damage:
        path.write_bytes(content[:100])


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Serve `tiny` with its classifier, `other-head` with another, `damaged` with half, `bare` without."""
    zoo = tmp_path_factory.mktemp("explained")
    with_classifier(make_tiny_model(zoo, "tiny"))
    with_classifier(make_tiny_model(zoo, "other-head"), shift=0.01)
    with_classifier(make_tiny_model(zoo, "damaged"), damage=True)
    make_tiny_model(zoo, "bare")
    data_dir = tmp_path_factory.mktemp("data")
    with running(Settings(model_dirs=(zoo,), default_model="tiny", data_dir=data_dir)) as client:
        yield client


def test_mean_of_the_map_plus_bias_is_the_logit(explained: httpx.Client, cat_jpeg: bytes) -> None:
    classified = explained.post("/classify", content=cat_jpeg, params={"top_k": TINY_CLASSES}).json()
    logits = {}
    for prediction in classified["predictions"]:
        response = explained.post(
            "/explain", content=cat_jpeg, params={"class_id": prediction["class_id"]}, headers=JSON
        )
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        body = response.json()
        values = np.array(body["map"])
        assert values.shape == (16, 16)
        assert values.mean() + body["bias"] == pytest.approx(body["logit"], abs=1e-3)
        assert body["label"] == prediction["label"]
        assert body["image"] == classified["image"]
        logits[prediction["class_id"]] = (body["logit"], prediction["probability"])
    scores = np.exp([logit for logit, _ in logits.values()])
    assert scores / scores.sum() == pytest.approx(
        [probability for _, probability in logits.values()], abs=1e-5
    )


def test_png_of_the_top_class_by_default(explained: httpx.Client, cat_jpeg: bytes) -> None:
    top = explained.post("/classify", content=cat_jpeg).json()["predictions"][0]["class_id"]
    response = explained.post("/explain", content=cat_jpeg)
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-disposition"] == f'inline; filename="tiny-{top}.png"'
    assert {part.split(";")[0] for part in response.headers["server-timing"].split(", ")} == {
        "queue", "decode", "preprocess", "inference", "postprocess", "total",
    }  # fmt: skip
    picture = Image.open(io.BytesIO(response.content))
    assert (picture.mode, picture.width / picture.height) == ("RGB", pytest.approx(451 / 300, rel=0.02))
    assert response.content == explained.post("/explain", content=cat_jpeg, params={"class_id": top}).content
    layer = explained.post("/explain", content=cat_jpeg, params={"over_image": "false"})
    assert Image.open(io.BytesIO(layer.content)).mode == "RGBA"
    form = explained.post("/explain", files={"image": cat_jpeg}, params={"model": "tiny"})
    assert form.content == response.content


def test_png_depends_on_the_class(explained: httpx.Client, cat_jpeg: bytes) -> None:
    pictures = {
        explained.post("/explain", content=cat_jpeg, params={"class_id": one}).content
        for one in range(TINY_CLASSES)
    }
    assert len(pictures) == TINY_CLASSES


@pytest.mark.parametrize("class_id", [-1, TINY_CLASSES, 10**12])
def test_class_id_out_of_range(explained: httpx.Client, cat_jpeg: bytes, class_id: int) -> None:
    response = explained.post("/explain", content=cat_jpeg, params={"class_id": class_id})
    assert_problem(response, 422, "invalid-parameter", str(class_id), "0 to 9")


def test_invalid_requests(explained: httpx.Client, cat_jpeg: bytes) -> None:
    def ask(content: bytes = cat_jpeg, **query: str) -> httpx.Response:
        return explained.post("/explain", content=content, params=query)

    assert_problem(ask(class_id="cat"), 422, "invalid-parameter", "class_id")
    assert_problem(ask(klass="1"), 422, "invalid-parameter", "klass", "class_id")
    assert_problem(ask(model="resnet"), 404, "unknown-model", "tiny")
    assert_problem(ask(b""), 422, "empty-body")
    assert_problem(ask(b"no picture at all"), 415, "unknown-image-type")
    assert_problem(ask(cat_jpeg[:2000]), 422, "undecodable-image")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("bare", "no linear classifier"),
        ("other-head", "the stored classifier give"),
        ("damaged", "classifier.npz is not the one that the card describes"),
    ],
)
def test_models_without_an_exact_map(
    explained: httpx.Client, cat_jpeg: bytes, model: str, words: str
) -> None:
    response = explained.post("/explain", content=cat_jpeg, params={"model": model})
    assert_problem(response, 409, "no-exact-map", f"model '{model}'", words)


@pytest.mark.slow
def test_deadline_and_full_queue(
    serve: Callable[..., httpx.Client], cat_jpeg: bytes, slow_png: bytes, tmp_path: Path
) -> None:
    """One thread is busy with 36 M pixels: one request waits until its deadline, another is refused."""
    with_classifier(make_tiny_model(tmp_path / "zoo", "tiny"))
    client = serve(model_dirs=(tmp_path / "zoo",), threads=1, max_waiting=1, deadline_s=0.1)
    with posting(client, slow_png):
        until(client, running=1, waiting=0)
        with posting(client, cat_jpeg, "/explain") as waits:
            until(client, running=1, waiting=1)
            assert_problem(client.post("/explain", content=cat_jpeg), 503, "queue-full")
    assert_problem(waits[0], 504, "deadline-exceeded", "0.1 s")


def test_explanations_are_not_recorded(explained: httpx.Client, cat_jpeg: bytes) -> None:
    def counted() -> int:
        rows = explained.get("/latency", params={"since": "1h"}).json()["latencies"]
        return sum(row["count"] for row in rows)

    before = counted()
    assert explained.post("/explain", content=cat_jpeg).status_code == 200
    assert counted() == before
