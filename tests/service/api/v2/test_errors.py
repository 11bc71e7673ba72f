"""Errors under /v2 have the protocol's form, wherever they are raised."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.v2 import infer as infer_module
from tests.helpers.inference_protocol import assert_protocol_error, body_of, elements, images, tensor
from tests.helpers.wire import ask, responses
from tests.service.api.test_overload import posting, until

PATH = "/v2/models/tiny/infer"
Serve = Callable[..., httpx.Client]
ONE = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["aGk="]}
ZEROS = {"name": "image", "shape": [1, 3, 32, 32], "datatype": "FP32"}

JSON_ERRORS: list[tuple[Any, str]] = [
    ([], "request: input should be a valid dictionary"),
    ({}, "inputs: field required"),
    ({"inputs": {}}, "inputs: input should be a valid list"),
    ({"inputs": []}, "inputs: none (allowed: one, 'image')"),
    ({"inputs": [ONE], "id": 42}, "id: input should be a valid string"),
    ({"inputs": [ONE], "parameters": []}, "parameters: input should be a valid dictionary"),
    ({"inputs": [ONE, ONE]}, "inputs: 'image', 'image' (allowed: one, 'image')"),
    ({"inputs": [ONE | {"name": "images"}]}, "inputs: 'images' (allowed: one, 'image')"),
    ({"inputs": [{"name": "image"}]}, "inputs.0.shape: field required; inputs.0.datatype: field required"),
    ({"inputs": [ONE | {"shape": [-1]}]}, "inputs.0.shape.0: input should be greater than or equal to 0"),
    ({"inputs": [ONE | {"shape": [1.5]}]}, "inputs.0.shape.0: input should be a valid integer"),
    ({"inputs": [ONE | {"shape": ["1"]}]}, "inputs.0.shape.0: input should be a valid integer"),
    ({"inputs": [ONE | {"shape": []}]}, "shape [] (allowed: [-1], [-1, 1])"),
    ({"inputs": [ONE | {"shape": [1, 2]}]}, "shape [1, 2] (allowed: [-1], [-1, 1])"),
    ({"inputs": [ONE | {"shape": [0], "data": []}]}, "0 images (allowed: 1 to 4)"),
    ({"inputs": [ONE | {"shape": [5]}]}, "5 images (allowed: 1 to 4)"),
    ({"inputs": [ONE | {"shape": [2]}]}, "data: 1 items (needed: 2 texts in base64)"),
    ({"inputs": [ONE | {"data": [1]}]}, "data: 1 items (needed: 1 texts in base64)"),
    ({"inputs": [ONE | {"data": "aGk="}]}, "data: 0 items (needed: 1 texts in base64)"),
    ({"inputs": [ONE | {"data": ["a photo"]}]}, "data: not base64"),
    ({"inputs": [ONE | {"data": ["\xe4"]}]}, "data: not base64"),
    ({"inputs": [ONE | {"data": [""]}]}, "image 0 has 0 bytes"),
    ({"inputs": [ONE | {"datatype": "INT8"}]}, "datatype 'INT8' (allowed: FP32, the network's, and BYTES"),
    ({"inputs": [ONE | {"data": None}]}, "needs either data or binary_data_size"),
    ({"inputs": [ZEROS | {"data": [0.0] * 3071}]}, "data: [3071] numbers (allowed: [1, 3, 32, 32], or flat"),
    ({"inputs": [ZEROS | {"data": [[[[0.0]]]]}]}, "data: [1, 1, 1, 1] numbers"),
    ({"inputs": [ZEROS | {"data": [[1, 2], [3]]}]}, "data: rows of different lengths"),
    ({"inputs": [ZEROS | {"data": ["0"] * 3072}]}, "data: not numbers throughout"),
    ({"inputs": [ZEROS | {"data": [True] * 3072}]}, "data: not numbers throughout"),
    ({"inputs": [ZEROS | {"data": [None] * 3072}]}, "data: not numbers throughout"),
    ({"inputs": [ZEROS | {"data": {}}]}, "data: not numbers throughout"),
    ({"inputs": [ZEROS | {"data": 0}]}, "data: [] numbers"),
    ({"inputs": [ZEROS | {"shape": [1, 32, 32, 3]}]}, "needs either data"),
    ({"inputs": [ZEROS | {"shape": [1, 32, 32, 3], "data": []}]}, "(allowed: [-1, 3, 32, 32])"),
    ({"inputs": [ZEROS | {"shape": [3, 32, 32], "data": []}]}, "(allowed: [-1, 3, 32, 32])"),
    ({"inputs": [ONE | {"parameters": {"shared_memory_region": "x"}}]}, "shared memory is not supported"),
    ({"inputs": [ONE | {"parameters": {"binary_data_size": -1}}]}, "binary_data_size '-1'"),
    ({"inputs": [ONE | {"parameters": {"binary_data_size": True}}]}, "binary_data_size 'True'"),
    ({"inputs": [ONE | {"parameters": {"binary_data_size": 6}}]}, "0 bytes after the JSON"),
    ({"inputs": [ONE], "outputs": [{"name": "boxes"}]}, "output 'boxes': unknown to model 'tiny' ("),
    ({"inputs": [ONE], "outputs": [{}]}, "outputs.0.name: field required"),
    ({"inputs": [ONE], "outputs": [{"name": "logits"}] * 2}, "output 'logits': asked for twice"),
    ({"inputs": [ONE], "parameters": {"binary_data_output": 1}}, "request: binary_data_output '1'"),
]  # fmt: skip

OUTPUT_ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("logits", {"classification": -1}, "classification '-1' (allowed: a number of classes)"),
    ("logits", {"classification": "2"}, "classification '2'"),
    ("logits", {"classification": True}, "classification 'True'"),
    ("logits", {"classification": False}, "classification 'False'"),
    ("embedding", {"classification": 2}, "classification: not an output of classes"),
    ("logits", {"binary_data": "yes"}, "binary_data 'yes' (allowed: true, false)"),
    ("logits", {"shared_memory_region": "x"}, "shared memory is not supported"),
]


@pytest.mark.parametrize(("fields", "words"), JSON_ERRORS, ids=[words for _, words in JSON_ERRORS])
def test_invalid_json_objects(client: httpx.Client, fields: Any, words: str) -> None:
    assert_protocol_error(client.post(PATH, json=fields), 400, words)


@pytest.mark.parametrize(("name", "parameters", "words"), OUTPUT_ERRORS)
def test_invalid_outputs(client: httpx.Client, name: str, parameters: dict[str, Any], words: str) -> None:
    request = {"inputs": [ONE], "outputs": [{"name": name, "parameters": parameters}]}
    assert_protocol_error(client.post(PATH, json=request), 400, f"output '{name}'", words)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"inputs": NaN}', b"[" * 2000])
def test_malformed_json(client: httpx.Client, content: bytes) -> None:
    assert_protocol_error(client.post(PATH, content=content), 400, "request: not JSON")


@pytest.mark.parametrize("length", ["", "x", "-1", "+1", "1_0", "1e1", "\u0663", "99999", "9" * 5000])
def test_header_length_that_is_none(client: httpx.Client, png: bytes, length: str) -> None:
    request = body_of(images(png)) | {"headers": {b"Inference-Header-Content-Length": length.encode()}}
    assert_protocol_error(client.post(PATH, **request), 400, "not the length of the JSON")


def test_binary_data_of_other_sizes(client: httpx.Client, png: bytes) -> None:
    def post(entry: dict[str, Any], content: bytes, **changes: Any) -> httpx.Response:
        return client.post(PATH, **body_of((entry, content), **changes))

    request = body_of(images(png))
    for content in (request["content"][:-1], request["content"] + b"x"):
        response = client.post(PATH, content=content, headers=request["headers"])
        assert_protocol_error(response, 400, "bytes after the JSON, the inputs' binary_data_size are")
    (entry, content) = images(png)
    many = {"shape": [2]}
    for changed, other in (
        (entry | many, content),
        (entry, elements(png, png)),
        (entry, content[:-1]),
        (entry, content + b"\0"),
        (entry, b""),
        (entry, (2**32 - 1).to_bytes(4, "little") + png),
    ):
        assert_protocol_error(post(changed, other), 400, "elements of BYTES")
    assert_protocol_error(post(*images(png, b"", png)), 400, "image 1 has 0 bytes")
    (entry, content) = tensor(np.zeros((1, 3, 32, 32), np.float32))
    assert_protocol_error(
        post(entry, content[:-4]), 400, "12284 bytes, but shape [1, 3, 32, 32] of FP32 has 12288"
    )
    assert_protocol_error(post(entry | {"data": [0]}, content), 400, "needs either data or binary_data_size")
    without = client.post(PATH, content=request["content"])
    assert_protocol_error(without, 400, "not JSON", "need the header field Inference-Header-Content-Length")


def test_images_that_cannot_be_used(client: httpx.Client, serve: Serve, png: bytes) -> None:
    for bad, status, words in ((b"text", 415, "type"), (png[:60], 422, "truncated")):
        alone = client.post(PATH, **body_of(images(bad)))
        assert_protocol_error(alone, status, words)
        assert not alone.json()["error"].startswith("image ")
        assert_protocol_error(client.post(PATH, **body_of(images(png, bad, png))), status, "image 1: ", words)
    small = serve(max_pixels=64 * 48 - 1)
    assert_protocol_error(small.post(PATH, **body_of(images(png, png))), 413, "image 0: ", "limit: 3071")


def test_parameters_of_a_detection(client: httpx.Client, png: bytes) -> None:
    for parameters, status, words in (
        ({"min_score": 2}, 422, "min_score 2: out of range"),
        ({"min_score": "0.5"}, 400, "parameter 'min_score': '0.5' (allowed: a number)"),
        ({"max_detections": 0}, 422, "max_detections 0: out of range"),
        ({"max_detections": 1.5}, 400, "parameter 'max_detections': '1.5'"),
        ({"classes": "cat"}, 422, "'cat' unknown to model 'colours'"),
        ({"classes": [1]}, 400, "parameter 'classes'"),
    ):
        response = client.post("/v2/models/colours/infer", **body_of(images(png), parameters=parameters))
        assert_protocol_error(response, status, words)


def test_errors_outside_of_the_route(client: httpx.Client) -> None:
    assert_protocol_error(client.get("/v2/nowhere"), 404, "path /v2/nowhere: not found")
    assert_protocol_error(client.get("/v2/"), 404, "did you mean /v2?")
    wrong = client.get(PATH)
    assert_protocol_error(wrong, 405, "method not allowed (allowed: POST)")
    assert wrong.headers["allow"] == "POST"
    assert client.get("/v2x").json()["type"] == "not-found"
    large = client.post(PATH, content=bytes(200_001))
    assert_protocol_error(large, 413, "200001 bytes (limit: 200000)")
    assert large.headers["connection"] == "close"
    page = client.post(PATH, content=b"{}", headers={"Origin": "https://evil.example"})
    assert_protocol_error(page, 403, "cross-site")
    for coding in ("gzip", "deflate", "gzip, identity"):
        coded = client.post(PATH, content=b"{}", headers={"Content-Encoding": coding})
        assert_protocol_error(coded, 415, f"Content-Encoding '{coding}'", "allowed: identity")


def test_errors_of_the_connection(client: httpx.Client) -> None:
    raw = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode()
    [(status, headers, body)] = responses(ask((client.base_url.host, client.base_url.port or 80), raw))
    assert (status, headers["content-type"]) == (400, "application/json")
    assert list(json.loads(body)) == ["error"]


@pytest.mark.slow
def test_unexpected_errors(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(infer_module, "served_model", fail)
    assert_protocol_error(client.post(PATH), 500, "unexpected error")


def test_behind_a_prefix(serve: Serve) -> None:
    client = serve(root_path="/weighin")
    assert_protocol_error(client.get("/weighin/v2/models/none"), 404, "model 'none'")
    assert_protocol_error(client.get("/v2/models/none"), 404, "model 'none'")


@pytest.mark.slow
def test_full_queue(serve: Serve, slow_png: bytes, png: bytes) -> None:
    """Refused before the body is read, and counted under the model of the path."""
    client = serve(threads=1, max_waiting=0)
    with posting(client, slow_png) as first:
        until(client, running=1, waiting=0)
        for path in (PATH, "/v2/models/tiny/versions/1/infer"):
            assert_protocol_error(client.post(path, **body_of(images(png))), 503, "queue full")
        assert_protocol_error(client.post("/v2/models/none/infer"), 404, "unknown")
    assert first[0].status_code == 200
    row = client.get("/latency?model=tiny&stage=total").json()["latencies"][0]
    assert row["errors"] == {"queue-full": 2}


@pytest.mark.slow
def test_a_batch_waits_for_room(serve: Serve, slow_png: bytes, png: bytes) -> None:
    """Only its first image can be refused: the others wait while the queue is full."""
    client = serve(threads=2, max_waiting=0)
    with posting(client, slow_png):
        until(client, running=1, waiting=0)
        response = client.post(PATH, **body_of(images(*[png] * 5), ["logits"]), timeout=60)
        assert response.status_code == 200
    assert client.get("/latency?model=tiny&stage=total").json()["latencies"][0]["count"] == 6


def test_a_batch_stops_when_its_client_disconnects(serve: Serve, slow_png: bytes) -> None:
    client = serve(threads=1)
    request = body_of(images(*[slow_png] * 5), ["logits"])
    names = {**request["headers"], "Content-Length": str(len(request["content"])), "Host": "a"}
    head = "".join(f"{name}: {value}\r\n" for name, value in names.items())
    address = (client.base_url.host, client.base_url.port or 80)
    with socket.create_connection(address) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + request["content"])
        until(client, running=1, waiting=0)
    until(client, running=0, waiting=0)
    row = client.get("/latency?model=tiny&stage=total").json()["latencies"][0]
    assert row["count"] < 5
    assert row["errors"] == {"client-gone": 1}


@pytest.mark.slow
def test_deadline(serve: Serve, slow_png: bytes, png: bytes) -> None:
    client = serve(threads=1, deadline_s=0.1)
    with posting(client, slow_png) as first:
        until(client, running=1, waiting=0)
        assert_protocol_error(client.post(PATH, **body_of(images(png, png))), 504, "0.1 s")
    assert first[0].status_code == 200
