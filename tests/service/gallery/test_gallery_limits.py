"""What the gallery refuses, on both databases: ids, metadata, forms, quotas, strangers; nothing is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.helpers.problems import assert_problem
from tests.service.gallery.calls import listed, put, retrieve
from tests.service.gallery.pictures import blobs, jpeg

pytestmark = pytest.mark.databases("sqlite", "postgresql")


@pytest.mark.parametrize("id", ["a b", "ä", "x" * 256, "%00", "a;b", "..", "."])
def test_invalid_id(client: httpx.Client, id: str) -> None:
    # httpx would resolve dots, so they are sent as a careless client would
    path = f"/gallery/images/{id.replace('.', '%2E')}"
    response = client.put(path, content=blobs(8))
    assert_problem(response, 422, "invalid-parameter", "1 to 255")
    assert_problem(client.get(f"{path}/content"), 422, "invalid-parameter", "1 to 255")


def test_id_with_path_traversal(client: httpx.Client) -> None:
    for method in ("PUT", "GET", "DELETE"):
        response = client.request(method, "/gallery/images/..%2F..%2Fetc%2Fpasswd", content=blobs(8))
        assert_problem(response, 404, "not-found")


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ("[1]", "object"),
        ('{"a": [1]}', "'a'"),
        ('{"a": {"b": 1}}', "'a'"),
        ('{"a": 1e999}', "JSON"),
        ('{"a": 12345678901234567890}', "2\\*\\*53"),
        ('{"": 1}', "name"),
        (json.dumps({f"f{n}": n for n in range(65)}), "64"),
        (json.dumps({"a": "\0"}), "NUL"),
    ],
)
def test_invalid_metadata_in_requests(client: httpx.Client, metadata: str, word: str) -> None:
    response = client.put("/gallery/images/meta", params={"metadata": metadata}, content=blobs(9))
    body = assert_problem(response, 422, "invalid-parameter", "metadata")
    assert re.search(word, body["detail"])
    files = {"metadata": (None, metadata), "image": blobs(9)}
    assert_problem(client.put("/gallery/images/meta", files=files), 422, "invalid-parameter", "metadata")
    assert_problem(client.get("/gallery/images/meta"), 404, "unknown-image")


def test_oversized_metadata(client: httpx.Client) -> None:
    huge = json.dumps({"a": "x" * 10_000_000})
    files = [("metadata", (None, huge)), ("image", ("a.png", blobs(9)))]
    response = client.put("/gallery/images/huge", files=files)
    assert_problem(response, 422, "invalid-parameter", "metadata: 10000009 bytes", "16384")
    [entry] = client.post("/gallery/images", files=files).json()["images"]
    assert entry["status"] == "rejected"
    assert "16384" in entry["detail"]
    assert_problem(client.get("/gallery/images/huge"), 404, "unknown-image")


@pytest.mark.parametrize(
    "files",
    [
        {"photo": b"x"},
        [("image", ("a", b"x")), ("image", ("b", b"x"))],
        [("image", ("a", b"x")), ("metadata", (None, "{}")), ("metadata", (None, "{}"))],
    ],
)
def test_form_with_wrong_parts(client: httpx.Client, files: Any) -> None:
    response = client.put("/gallery/images/parts", files=files)
    assert_problem(response, 400, "malformed-request", "allowed: one 'image'")


def test_put_of_undecodable_bytes(client: httpx.Client) -> None:
    put(client, "steady", blobs(10))
    truncated = jpeg("cat")[:9000]
    for data, status, slug in (
        (b"text", 415, "unknown-image-type"),
        (b"", 422, "empty-body"),
        (truncated, 422, "undecodable-image"),
    ):
        assert_problem(client.put("/gallery/images/steady", content=data), status, slug)
        assert_problem(client.put("/gallery/images/steady", files={"image": data}), status, slug)
    assert client.get("/gallery/images/steady/content").content == blobs(10)


@pytest.mark.slow
def test_image_quota(serve: Callable[..., httpx.Client]) -> None:
    client = serve(gallery_max_images=2)
    put(client, "a", blobs(20))
    files = [("image", ("x.png", blobs(seed))) for seed in (21, 22)]
    entries = client.post("/gallery/images", files=files).json()["images"]
    assert sorted(entry["status"] for entry in entries) == ["added", "rejected"]
    assert_problem(client.put("/gallery/images/c", content=blobs(23)), 507, "gallery-full", "limit: 2")
    others = [("image", ("x.png", blobs(seed))) for seed in (30, 31)]
    assert_problem(client.post("/gallery/images", files=others), 507, "gallery-full", "limit: 2")
    assert put(client, "a", blobs(24))["status"] == "replaced"
    assert client.get("/gallery").json()["quota"]["images"] == 2
    assert len(listed(client)) == 2
    client.delete("/gallery/images/a")
    assert put(client, "c", blobs(23))["status"] == "added"


def test_byte_quota(serve: Callable[..., httpx.Client]) -> None:
    client = serve(gallery_max_bytes=len(blobs(25)) + 10)
    put(client, "a", blobs(25))
    response = client.put("/gallery/images/b", content=blobs(26))
    assert_problem(response, 507, "gallery-full", "bytes", "limit: ")
    assert listed(client) == ["a"]


@pytest.mark.slow
def test_api_key_of_the_gallery(serve: Callable[..., httpx.Client]) -> None:
    client = serve(api_key=SecretStr("open sesame"))
    changes = [
        ("PUT", "/gallery/images/a"),
        ("POST", "/gallery/images"),
        ("DELETE", "/gallery/images/a"),
        ("POST", "/gallery/reindex?model=tiny-b"),
    ]
    for method, path in changes:
        assert_problem(client.request(method, path, content=blobs(27)), 401, "unauthorized", "Bearer")
    headers = {"Authorization": "Bearer open sesame"}
    assert client.put("/gallery/images/a", content=blobs(27), headers=headers).status_code == 201
    assert [m["id"] for m in retrieve(client, blobs(27))] == ["a"]
    for path in ("/gallery", "/gallery/images", "/gallery/images/a", "/gallery/images/a/content"):
        assert client.get(path).status_code == 200
    assert client.delete("/gallery/images/a", headers=headers).status_code == 204


@pytest.mark.slow
def test_cross_site_requests_to_the_gallery(serve: Callable[..., httpx.Client]) -> None:
    client = serve(allowed_origins=frozenset({"https://friend.example"}))
    for method, path in (
        ("PUT", "/gallery/images/a"),
        ("POST", "/gallery/images"),
        ("DELETE", "/gallery/images/a"),
    ):
        headers = {"Origin": "https://evil.example"}
        response = client.request(method, path, content=blobs(28), headers=headers)
        assert_problem(response, 403, "cross-site-request", "evil.example", method)
    preflight = client.options(
        "/gallery/images/a",
        headers={"Origin": "https://friend.example", "Access-Control-Request-Method": "PUT"},
    )
    assert preflight.status_code == 200
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    headers = {"Origin": "https://friend.example"}
    assert client.put("/gallery/images/a", content=blobs(28), headers=headers).status_code == 201
