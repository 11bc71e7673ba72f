"""POST /detect: boxes, parameters and invalid input."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from PIL import Image, ImageOps

from models.zoo.card import read_card
from service.api.inference.detect import DetectResponse
from service.errors import InvalidParameter
from service.inference.decoding.decode import decode
from service.inference.detect import detect_plan, objects_in
from service.inference.loading import load_model
from service.inference.registry import Registry
from service.inference.session import OnnxSession
from service.latency.stages import STAGES, Stopwatch
from tests.conftest import make_tiny_model
from tests.helpers.detectors import CLASSES, DECODERS, save_detector
from tests.helpers.problems import assert_problem
from tests.service.api.test_overload import posting, until
from tests.service.inference.detection.slow import (
    Box,
    intersection_over_union,
    slow_candidates,
    slow_suppression,
)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
FITTINGS: dict[str, dict[str, Any]] = {
    "stretched": {"fitting": "stretch"},
    "letterboxed": {"fitting": "letterbox", "pad_value": 0},
    "padded": {"fitting": "pad", "pad_value": 0},
    "cropped": {"fitting": "center-crop", "resize": 72},
}


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def scene(
    size: tuple[int, int], *squares: tuple[tuple[int, int, int], tuple[int, int, int, int]]
) -> Image.Image:
    image = Image.new("RGB", size)
    for colour, box in squares:
        image.paste(colour, box)
    return image


@pytest.fixture(scope="module")
def squares() -> bytes:
    """A red and a blue square, each a cell of the network, in the middle of its box."""
    return encoded(scene((320, 320), (RED, (60, 80, 80, 100)), (BLUE, (220, 200, 240, 220))))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    make_tiny_model(folder, "tiny")
    save_detector(folder, "colours")
    for kind in DECODERS:
        save_detector(folder, kind, kind)
    for name, fitting in FITTINGS.items():
        save_detector(folder, name, input=fitting)
    save_detector(folder, "wide", "decoded-boxes", (32, 128), input={"fitting": "letterbox", "pad_value": 0})
    save_detector(
        folder, "many", size=(128, 128), detection={"candidates": 2000, "max_detections": 1500, "iou": 0.9}
    )
    return folder


@pytest.fixture(scope="module")
def client(serve_for_module: Callable[..., httpx.Client], zoo: Path) -> httpx.Client:
    return serve_for_module(model_dirs=(zoo,), default_detector="colours")


def boxes_of(answer: httpx.Response) -> list[tuple[str, Box]]:
    assert answer.status_code == 200, answer.text
    body = DetectResponse.model_validate_json(answer.content, strict=True)
    return [
        (found.label, (found.box.left, found.box.top, found.box.right, found.box.bottom))
        for found in body.detections
    ]


@pytest.mark.parametrize("kind", DECODERS)
def test_each_decoder_finds_both_squares(client: httpx.Client, squares: bytes, kind: str) -> None:
    found = boxes_of(client.post("/detect", params={"model": kind}, content=squares))
    assert sorted(found) == [("blue", (200, 180, 260, 240)), ("red", (40, 60, 100, 120))]


def test_body_and_form(client: httpx.Client, squares: bytes) -> None:
    raw = client.post("/detect?classes=red", content=squares)
    form = client.post("/detect", data={"classes": "red", "model": "colours"}, files={"image": squares})
    for answer in (raw, form):
        assert boxes_of(answer) == [("red", (40, 60, 100, 120))]
        body = answer.json()
        assert body["model"] == "colours"
        assert body["image"] == {"width": 320, "height": 320, "format": "png", "bytes": len(squares)}
        assert body["detections"][0]["class_id"] == 0
        assert body["detections"][0]["score"] > 0.6
        assert body["detections"][0]["landmarks"] == [{"x": 70, "y": 90}]


def test_timings(client: httpx.Client, squares: bytes) -> None:
    answer = client.post("/detect", content=squares)
    timings = answer.json()["timings_ms"]
    assert tuple(timings) == tuple(stage for stage in STAGES if stage != "search")
    assert all(value > 0 for value in timings.values())
    assert timings["total"] == pytest.approx(sum(timings.values()) - timings["total"], abs=0.01)
    header = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"]))
    assert {stage: float(value) for stage, value in header.items()} == timings
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_latency_and_metrics(client: httpx.Client, squares: bytes) -> None:
    for _ in range(3):
        client.post("/detect?model=selected-boxes", content=squares)
    rows = client.get("/latency?model=selected-boxes").json()["latencies"]
    counts = {row["stage"]: row["count"] for row in rows}
    assert counts["nms"] == counts["inference"] == counts["total"] >= 3
    metrics = client.get("/metrics").text
    assert 'weighin_stage_duration_seconds_count{model="selected-boxes",regime="live",stage="nms"}' in metrics


@pytest.mark.parametrize("model", [*FITTINGS, "wide"])
@pytest.mark.parametrize(("format", "orientation"), [("PNG", 1), ("JPEG", 1), ("JPEG", 6)])
def test_boxes_as_without_any_shortcut(
    client: httpx.Client, zoo: Path, model: str, format: str, orientation: int
) -> None:
    """Full decoding, Pillow's own turning, resizing of the whole image, loops over all cells and boxes."""
    # Bright on dim: no two cells have the same score, which noise of the JPEG would put in another order.
    turned = scene(
        (900, 1300),
        ((120, 0, 0), (300, 500, 460, 660)),
        (RED, (355, 560, 435, 650)),
        ((0, 120, 0), (520, 700, 680, 850)),
        (GREEN, (570, 730, 640, 815)),
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(turned, format, exif=exif, **({"quality": 95} if format == "JPEG" else {}))
    least = 0.2 if model == "wide" else 0.4  # a cell is as large as a square there
    answer = client.post("/detect", params={"model": model, "min_score": least}, content=data)
    found = [
        (label, box, one["score"])
        for (label, box), one in zip(boxes_of(answer), answer.json()["detections"], strict=True)
    ]
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    expected = slow_boxes(zoo / model, upright, least)
    assert {label for label, _, _ in found} == {"red", "green"}
    assert len(found) == len(expected)
    scores = 0.01 if format == "PNG" else 0.03
    for (label, box, score), (other_label, other, other_score) in zip(
        sorted(found), sorted(expected), strict=True
    ):
        assert label == other_label
        assert intersection_over_union(box, other) >= 1 - 2e-3
        assert score == pytest.approx(other_score, abs=scores)


def slow_boxes(folder: Path, image: Image.Image, min_score: float) -> list[tuple[str, Box, float]]:
    """The boxes and scores of an upright image, each step written out."""
    card = read_card(folder)
    spec, detection = card.input, card.detection
    assert detection is not None
    across, down = spec.width / image.width, spec.height / image.height
    left = top = 0
    if spec.fitting == "center-crop":
        across = down = spec.resize / min(image.size)
        size = (round(image.width * across), round(image.height * down))
        left, top = (spec.width - size[0]) / 2, (spec.height - size[1]) / 2
    elif spec.fitting == "stretch":
        size = (spec.width, spec.height)
    else:
        size = (round(image.width * min(across, down)), round(image.height * min(across, down)))
        across, down = size[0] / image.width, size[1] / image.height
        if spec.fitting == "letterbox":
            left, top = (spec.width - size[0]) // 2, (spec.height - size[1]) // 2
    canvas = Image.new("RGB", (spec.width, spec.height))
    canvas.paste(image.resize(size, Image.Resampling.BILINEAR), (int(left), int(top)))
    tensor = np.asarray(canvas, np.float32).transpose(2, 0, 1)[None] / 255
    session = OnnxSession((folder / "model.onnx").read_bytes(), card)
    outputs = session.run(tensor, tuple(card.output_shapes))
    candidates = slow_candidates(card, {name: value[0] for name, value in outputs.items()}, min_score, 400)
    boxes = []
    for one in candidates:
        edges = (
            max(0.0, (one.box[0] - left) / across),
            max(0.0, (one.box[1] - top) / down),
            min(float(image.width), (one.box[2] - left) / across),
            min(float(image.height), (one.box[3] - top) / down),
        )
        if edges[0] < edges[2] and edges[1] < edges[3]:
            boxes.append((one.class_id, edges, one.score))
    ids = [class_id for class_id, _, _ in boxes]
    kept = slow_suppression([box for _, box, _ in boxes], ids, detection.iou, detection.suppression, 100)
    return [(CLASSES[boxes[number][0]], *boxes[number][1:]) for number in kept]


def test_nothing_found(client: httpx.Client) -> None:
    answer = client.post("/detect", content=encoded(Image.new("RGB", (50, 40), "grey")))
    assert boxes_of(answer) == []


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
@pytest.mark.parametrize("model", ["stretched", "letterboxed", "padded", "cropped"])
def test_extreme_aspect_ratios(client: httpx.Client, model: str, size: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", size, RED))
    answer = client.post("/detect", params={"model": model, "min_score": 0.2}, content=data)
    found = boxes_of(answer)
    assert found
    for label, (left, top, right, bottom) in found:
        assert label == "red"
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_a_thousand_objects(client: httpx.Client) -> None:
    """A red picture: every cell has a box."""
    answer = client.post("/detect?model=many", content=encoded(Image.new("RGB", (512, 512), RED)))
    found = boxes_of(answer)
    assert len(found) > 1000
    limited = boxes_of(
        client.post("/detect?model=many&max_detections=7", content=encoded(Image.new("RGB", (512, 512), RED)))
    )
    assert limited == found[:7]


def test_order_is_by_score(client: httpx.Client) -> None:
    shades = [(64 * number, 0, 0) for number in range(1, 4)]
    image = scene(
        (640, 64), *((shade, (40 + 200 * n, 0, 100 + 200 * n, 64)) for n, shade in enumerate(shades))
    )
    scores = [
        found["score"]
        for found in client.post("/detect?min_score=0.1", content=encoded(image)).json()["detections"]
    ]
    assert len(scores) >= 3
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("classes", ["red", "RED", "0", "red,blue", "2, red", "red,red"])
def test_classes(client: httpx.Client, squares: bytes, classes: str) -> None:
    found = boxes_of(client.post("/detect", params={"classes": classes}, content=squares))
    names = {
        CLASSES[int(name)] if name.isdigit() else name for name in classes.lower().replace(" ", "").split(",")
    }
    assert {label for label, _ in found} == names


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"min_score": "1.01"}, "min_score 1.01: out of range (allowed: 0 to 1)"),
        ({"min_score": "-0.1"}, "min_score -0.1: out of range (allowed: 0 to 1)"),
        ({"min_score": "nan"}, "min_score nan"),
        ({"min_score": "high"}, "min_score"),
        ({"max_detections": "0"}, "max_detections 0: out of range (allowed: 1 to 400)"),
        ({"max_detections": "401"}, "max_detections 401: out of range (allowed: 1 to 400)"),
        ({"classes": "pink"}, "'pink' unknown to model 'colours' (allowed: red, green, blue, or ids 0 to 2)"),
        ({"classes": "3"}, "classes: '3' unknown to model 'colours'"),
        ({"classes": ","}, "classes: empty (leave it out for all)"),
        ({"top_k": "5"}, "top_k"),
    ],
)  # fmt: skip
def test_invalid_parameters(client: httpx.Client, squares: bytes, query: dict[str, str], words: str) -> None:
    assert_problem(client.post("/detect", params=query, content=squares), 422, "invalid-parameter", words)


def test_parameters_are_given_once(client: httpx.Client, squares: bytes) -> None:
    for query in ("classes=red&classes=blue", "min_score=0.1&min_score=0.9"):
        answer = client.post(f"/detect?{query}", content=squares)
        assert_problem(answer, 422, "invalid-parameter", "given 2 times")


def test_limits_are_in_the_schema(openapi: dict[str, Any]) -> None:
    parameters = openapi["paths"]["/detect"]["post"]["parameters"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in parameters}
    limits = {name: (schema.get("minimum"), schema.get("maximum")) for name, schema in schemas.items()}
    assert (limits["min_score"], limits["max_detections"]) == ((0, 1), (1, 10_000))


LABELS = ("Crane", "salt, pepper", "salt", "crane", "7", "person")


@pytest.mark.parametrize(
    ("classes", "ids"),
    [
        (["crane"], {0, 3}),
        (["3"], {3}),
        (["salt", "pepper"], {1}),
        (["SALT", "PEPPER", "person"], {1, 5}),
        (["salt", "person"], {2, 5}),
        (["salt"], {2}),
        (["7"], {4}),
    ],
)
def test_which_classes_a_label_names(zoo: Path, classes: list[str], ids: set[int]) -> None:
    model = replace(load_model(zoo / "colours"), labels=LABELS)
    assert detect_plan(model, classes=classes).classes == ids


@pytest.mark.parametrize("given", ["PERSN", "persn"])
def test_close_labels_in_any_case(zoo: Path, given: str) -> None:
    model = replace(load_model(zoo / "colours"), labels=("Person", *map(str, range(100, 120))))
    with pytest.raises(InvalidParameter, match=r"allowed: Person, 20 others, or ids 0 to 20"):
        detect_plan(model, classes=[given])


def test_tasks_and_routes(client: httpx.Client, squares: bytes) -> None:
    for path in ("/classify", "/explain"):
        answer = client.post(path, params={"model": "colours"}, content=squares)
        assert_problem(answer, 409, "other-task", "model 'colours': detects objects", "use POST /detect")
    answer = client.post("/detect?model=tiny", content=squares)
    assert_problem(answer, 409, "other-task", "model 'tiny': classifies images", "use POST /classify")
    assert_problem(client.post("/detect?model=none", content=squares), 404, "unknown-model", "'none'")
    errors = client.get("/latency?model=tiny&stage=total").json()["latencies"][0]["errors"]
    assert errors["other-task"] >= 1


def test_similarity_needs_an_embedding(client: httpx.Client, openapi: dict[str, Any], squares: bytes) -> None:
    """Each route that embeds refuses a detector, in words of its own, and says so in its description."""
    words = "model 'colours': detects objects, it has no embedding to store or compare images by"
    answer = client.post("/retrieve-similar?model=colours", content=squares)
    assert_problem(answer, 409, "other-task", words, "use POST /detect")
    assert_problem(client.post("/gallery/reindex?model=colours"), 409, "other-task", words)
    paths = openapi["paths"]
    for path, method in (
        ("/retrieve-similar", "post"),
        ("/gallery/reindex", "post"),
        ("/gallery/images/{id}", "put"),
        ("/gallery/images/{id}/similar", "get"),
    ):
        assert "(`other-task`)" in paths[path][method]["responses"]["409"]["description"], path


def test_default_model_is_a_detector(zoo: Path, serve: Callable[..., httpx.Client], squares: bytes) -> None:
    client = serve(model_dirs=(zoo,), default_model="colours")
    answer = client.put("/gallery/images/a", content=squares)
    assert_problem(answer, 409, "other-task", "it has no embedding to store or compare images by")
    answer = client.post("/gallery/images", files={"image": ("a.png", squares)})
    assert answer.json()["images"][0]["status"] == "rejected"
    assert "it has no embedding to store or compare images by" in answer.text


@pytest.mark.parametrize(
    ("model", "detector", "events"),
    [
        ("tiny", "colours", []),
        ("colours", "colours", ["WEIGHIN_DEFAULT_MODEL: not a classifier"]),
        ("tiny", "none", ["WEIGHIN_DEFAULT_DETECTOR: no such model"]),
        ("tiny", "tiny", ["WEIGHIN_DEFAULT_DETECTOR: not a detector"]),
    ],
)
def test_wrong_default_models_are_logged(
    tmp_path: Path, model: str, detector: str, events: list[str]
) -> None:
    make_tiny_model(tmp_path, "tiny")
    save_detector(tmp_path, "colours")
    with structlog.testing.capture_logs() as logs:
        Registry((tmp_path,), model, default_detector=detector).load()
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == events


def test_landmarks_that_are_no_numbers_are_not_answered(zoo: Path) -> None:
    """A huge box covers the image, but where its landmarks are, no number tells."""
    model = load_model(zoo / "colours")
    assert model.decoder is not None
    image = decode(encoded(Image.new("RGB", (320, 320))), shorter_side=64, max_pixels=10**6)
    outputs = {name: np.zeros(shape, np.float32) for name, shape in model.card.output_shapes.items()}
    outputs["heatmap"][0, 2, 3] = 0.9
    for size, count in ((3, 1), (100, 1), (708, 0), (709.5, 0), (5000, 0)):
        outputs["size"][:] = size
        outputs["landmarks"][:] = 20
        found = objects_in(outputs, image, model.card, model.decoder, model.labels, Stopwatch())
        assert len(found) == count, size
        for one in found:
            assert np.isfinite([*one.box, *np.ravel(one.landmarks)]).all()


def test_images_are_checked_as_elsewhere(client: httpx.Client) -> None:
    assert_problem(client.post("/detect", content=b""), 422, "empty-body")
    assert_problem(client.post("/detect", content=b"\xff\xd8\xff\xe0broken"), 422, "undecodable-image")
    assert_problem(client.post("/detect", content=b"text"), 415, "unknown-image-type")
    assert_problem(client.get("/detect"), 405, "method-not-allowed")


def test_no_default_detector(serve: Callable[..., httpx.Client], squares: bytes) -> None:
    body = assert_problem(
        serve().post("/detect", content=squares),
        404,
        "unknown-model",
        "WEIGHIN_DEFAULT_DETECTOR: no such model (detectors: none",
    )
    assert body["models"] == []


def test_models_have_their_task(client: httpx.Client) -> None:
    tasks = {model["name"]: model["card"]["task"] for model in client.get("/models").json()["models"]}
    assert (tasks["tiny"], tasks["colours"]) == ("image-classification", "object-detection")
    assert client.get("/models/colours").json()["card"]["detection"]["decoder"]["kind"] == "centre-points"


@pytest.mark.slow
def test_queue_is_checked_before_the_body(
    zoo: Path, serve: Callable[..., httpx.Client], slow_png: bytes
) -> None:
    """The model of a refused request is the default detector."""
    client = serve(model_dirs=(zoo,), default_detector="colours", max_waiting=1, threads=1)
    small = encoded(Image.new("RGB", (9, 9)))
    with posting(client, slow_png, "/detect") as first:
        until(client, running=1, waiting=0)
        with posting(client, small, "/detect") as second:
            until(client, running=1, waiting=1)
            assert_problem(client.post("/detect", content=b"no picture"), 503, "queue-full", "limit: 1")
            assert_problem(client.post("/detect?model=many", content=small), 503, "queue-full")
    assert [answer.status_code for answer in (*first, *second)] == [200, 200]
    for model in ("colours", "many"):
        rows = client.get(f"/latency?model={model}&stage=total").json()["latencies"]
        assert rows[0]["errors"] == {"queue-full": 1}
