"""POST /classify: responses, headers and invalid input."""

from __future__ import annotations

import io
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from models.zoo.card import read_card
from models.zoo.preprocess import preprocess
from service.api.inference.classify import ClassifyResponse
from service.inference.decoding.decode import decode
from service.inference.session import OnnxSession
from service.latency.stages import STAGES
from tests.helpers.problems import assert_problem


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_raw_body_and_form(client: httpx.Client, cat_jpeg: bytes, tiny_models_dir: Path) -> None:
    folder = tiny_models_dir / "tiny"
    card = read_card(folder)
    image = decode(cat_jpeg, shorter_side=card.input.resize, max_pixels=10**6)
    session = OnnxSession((folder / "model.onnx").read_bytes(), card)
    logits = session.run(preprocess(image.pixels, card.input, box=image.box))["logits"][0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()

    raw = client.post("/classify?top_k=10", content=cat_jpeg)
    form = client.post("/classify", params={"top_k": 10, "model": "tiny"}, files={"image": cat_jpeg})
    for response in (raw, form):
        assert response.status_code == 200
        body = ClassifyResponse.model_validate_json(response.content, strict=True)
        assert body.model == "tiny"
        assert body.image.model_dump() == {
            "width": 451,
            "height": 300,
            "format": "jpeg",
            "bytes": len(cat_jpeg),
        }
        assert [p.class_id for p in body.predictions] == list(np.argsort(-expected))
        assert [p.label for p in body.predictions] == [f"thing {p.class_id}" for p in body.predictions]
        for prediction in body.predictions:
            assert prediction.probability == pytest.approx(expected[prediction.class_id], abs=1e-5)


def test_timings_and_server_timing_header(client: httpx.Client, cat_jpeg: bytes) -> None:
    response = client.post("/classify", content=cat_jpeg)
    timings = response.json()["timings_ms"]
    assert tuple(timings) == tuple(stage for stage in STAGES if stage not in ("nms", "search"))
    assert all(value > 0 for value in timings.values())
    assert timings["total"] == pytest.approx(
        sum(spent for stage, spent in timings.items() if stage != "total"), abs=0.01
    )
    header = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
    assert {stage: float(value) for stage, value in header.items()} == timings


def test_request_id_of_the_client(client: httpx.Client, png: bytes) -> None:
    own = client.post("/classify", content=png, headers={"X-Request-ID": "my-Id_1.2"})
    assert own.headers["x-request-id"] == own.json()["request_id"] == "my-Id_1.2"
    for bad in ("", "a b", "x" * 200, "<script>"):
        response = client.post("/classify", content=png, headers={"X-Request-ID": bad})
        assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])
        assert response.headers["x-request-id"] == response.json()["request_id"]
    assert own.headers["x-content-type-options"] == "nosniff"


def test_generated_request_ids_differ(client: httpx.Client, png: bytes) -> None:
    ids = {client.post("/classify", content=png).json()["request_id"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_aspect_ratios(client: httpx.Client, size: tuple[int, int]) -> None:
    response = client.post("/classify", content=encoded(Image.new("RGB", size, "red"), "PNG"))
    assert response.status_code == 200
    assert (response.json()["image"]["width"], response.json()["image"]["height"]) == size


def test_first_frame_of_an_animated_gif(client: httpx.Client) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    still = encoded(frames[0], "GIF")
    answers = [client.post("/classify", content=data).json() for data in (animated, still)]
    assert answers[0]["image"]["format"] == "gif"
    assert answers[0]["predictions"] == answers[1]["predictions"]


def test_cmyk_jpeg_equals_rgb_jpeg(client: httpx.Client, cat_jpeg: bytes) -> None:
    cat = Image.open(io.BytesIO(cat_jpeg))
    cmyk = encoded(cat.convert("CMYK"), "JPEG", quality=95)
    answers = [client.post("/classify?top_k=1", content=data).json() for data in (cat_jpeg, cmyk)]
    assert answers[0]["predictions"][0]["class_id"] == answers[1]["predictions"][0]["class_id"]


@pytest.mark.parametrize("files", [None, {"image": b""}])
def test_empty_body(client: httpx.Client, files: dict[str, bytes] | None) -> None:
    assert_problem(client.post("/classify", files=files), 422, "empty-body", "image")


def test_form_without_an_image_part(client: httpx.Client, png: bytes) -> None:
    assert_problem(client.post("/classify", files={"photo": png}), 400, "malformed-request", "'photo'")
    two = [("image", ("a.png", png)), ("image", ("b.png", png))]
    assert_problem(client.post("/classify", files=two), 400, "malformed-request", "needed: one")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"not a form"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc',
        ),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=" + "b" * 300, b"--b--"),
    ],
)
def test_malformed_form(client: httpx.Client, content_type: str, body: bytes) -> None:
    response = client.post("/classify", content=body, headers={"Content-Type": content_type})
    assert_problem(response, 400, "malformed-request", "form")


def test_form_in_single_byte_chunks(client: httpx.Client, png: bytes) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
        + png
        + b"\r\n--b--\r\n"
    )

    def pieces() -> Iterator[bytes]:
        for i in range(0, len(body), 7):
            yield body[i : i + 7]

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = client.post("/classify", content=pieces(), headers=headers)
    assert response.status_code == 200
    assert response.json()["image"]["bytes"] == len(png)


@pytest.mark.parametrize("data", [b"I am a text.", b"%PDF-1.7 ...", b"<html></html>", b"\x00"])
def test_unknown_image_type(client: httpx.Client, data: bytes) -> None:
    files = {"image": ("photo.jpg", data, "image/jpeg")}
    assert_problem(client.post("/classify", files=files), 415, "unknown-image-type")


def test_truncated_files(client: httpx.Client, cat_jpeg: bytes, png: bytes) -> None:
    for data in (cat_jpeg[: len(cat_jpeg) // 2], cat_jpeg[:30], png[: len(png) // 2], png[:40]):
        assert_problem(client.post("/classify", content=data), 422, "undecodable-image")


def png_bomb(side: int) -> bytes:
    """Return a PNG that declares side x side pixels, with data that decompresses to zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_png_bomb(client: httpx.Client) -> None:
    assert_problem(client.post("/classify", content=png_bomb(50_000)), 413, "too-many-pixels", "64000000")


def test_announced_body_over_the_limit(client: httpx.Client) -> None:
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 80), timeout=30
    ) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n" + bytes(1000)
        )
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "body-too-large" in answer


def test_chunked_body_over_the_limit(client: httpx.Client) -> None:
    """It is refused at 20 MB; ten times as much is discarded for clients that read only at the end."""
    sent = 0

    def flood() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(600):
            sent += 1_000_000
            yield bytes(1_000_000)

    try:
        response = client.post("/classify", content=flood())
    except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        pass  # the server closed the connection while more was being sent
    else:
        assert_problem(response, 413, "body-too-large", "20000000")
    assert sent < 260_000_000
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("top_k", [0, -1, 11, 10_000])
def test_top_k_out_of_range(client: httpx.Client, png: bytes, top_k: int) -> None:
    response = client.post("/classify", params={"top_k": top_k}, content=png)
    assert_problem(response, 422, "invalid-parameter", f"top_k {top_k}:", "1 to 10")


def test_top_k_not_a_number(client: httpx.Client, png: bytes) -> None:
    assert_problem(
        client.post("/classify?top_k=many", content=png), 422, "invalid-parameter", "top_k", "many"
    )


def test_unknown_model(client: httpx.Client, png: bytes) -> None:
    response = client.post("/classify?model=resnet", content=png)
    assert_problem(response, 404, "unknown-model", "'resnet'", "tiny-b")


def test_unknown_query_parameter(client: httpx.Client, png: bytes) -> None:
    response = client.post("/classify?topk=3", content=png)
    assert_problem(response, 422, "invalid-parameter", "'topk'", "top_k")


def test_unknown_methods_and_paths(client: httpx.Client) -> None:
    response = client.get("/classify")
    assert_problem(response, 405, "method-not-allowed", "GET")
    assert response.headers["allow"] == "POST"
    assert_problem(client.get("/nothing"), 404, "not-found", "/nothing")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
    ],
)
def test_post_from_another_origin(client: httpx.Client, png: bytes, headers: dict[str, str]) -> None:
    assert_problem(client.post("/classify", content=png, headers=headers), 403, "cross-site-request")


def test_post_from_own_and_allowed_origins(serve: Callable[..., httpx.Client], png: bytes) -> None:
    client = serve(allowed_origins=frozenset({"https://friend.example"}))
    own = f"http://{client.base_url.netloc.decode()}"
    for headers in (
        {"Origin": own},
        {"Origin": "https://proxied.example", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"},
    ):
        assert client.post("/classify", content=png, headers=headers).status_code == 200
    friend = client.post("/classify", content=png, headers={"Origin": "https://friend.example"})
    assert friend.headers["access-control-allow-origin"] == "https://friend.example"


@pytest.mark.slow
def test_limits_from_settings(serve: Callable[..., httpx.Client], png: bytes, tmp_path: Path) -> None:
    client = serve(max_body_bytes=len(png) - 1, data_dir=tmp_path / "one")
    assert_problem(client.post("/classify", content=png), 413, "body-too-large")
    client = serve(max_pixels=48 * 64 - 1, data_dir=tmp_path / "other")
    assert_problem(client.post("/classify", content=png), 413, "too-many-pixels", "3071")


@pytest.mark.slow
def test_body_not_received_in_time(serve: Callable[..., httpx.Client]) -> None:
    client = serve(deadline_s=0.2)
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 80), timeout=30
    ) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n" + bytes(10)
        )
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 504")
    assert "deadline-exceeded" in answer


def test_missing_default_model(serve: Callable[..., httpx.Client], png: bytes) -> None:
    client = serve(default_model="gone")
    assert_problem(client.post("/classify", content=png), 404, "unknown-model", "'gone'", "tiny")
    assert client.post("/classify?model=tiny", content=png).status_code == 200
