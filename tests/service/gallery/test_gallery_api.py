"""Images of the gallery over HTTP, on both databases: what is put is there, what is removed is not."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.api.gallery import ImagesResponse
from service.api.gallery_images import ImageOut
from service.settings import Settings
from tests.helpers.http_client import http_client
from tests.helpers.problems import assert_problem
from tests.service.conftest import running
from tests.service.gallery.calls import listed, put, retrieve
from tests.service.gallery.pictures import blobs, encoded, jpeg, photo

pytestmark = pytest.mark.databases("sqlite", "postgresql")


def test_put_status(client: httpx.Client) -> None:
    first = put(client, "life", blobs(3), year=2024)
    assert first["status"] == "added"
    facts = {key: first[key] for key in ("id", "metadata", "width", "height", "format", "bytes", "sha256")}
    assert facts == {
        "id": "life",
        "metadata": {"year": 2024},
        "width": 48,
        "height": 48,
        "format": "png",
        "bytes": len(blobs(3)),
        "sha256": hashlib.sha256(blobs(3)).hexdigest(),
    }
    assert put(client, "life", blobs(3), year=2024) == {**first, "status": "unchanged"}
    assert put(client, "life", blobs(3), year=2025)["status"] == "replaced"
    assert put(client, "life", blobs(3))["metadata"] == {}
    other = put(client, "life", jpeg("cat"), year=2024)
    assert (other["status"], other["created_at"]) == ("replaced", first["created_at"])
    image = client.get("/gallery/images/life")
    assert ImageOut.model_validate_json(image.content, strict=True).sha256 == other["sha256"]
    assert client.get("/gallery/images/life/content").content == jpeg("cat")
    assert {m["id"] for m in retrieve(client, blobs(3), where='{"year": 2024}', min_score=0.999)} == set()


def test_form_with_metadata_in_either_order(client: httpx.Client) -> None:
    for number, names in enumerate((("image", "metadata"), ("metadata", "image"))):
        parts = {"image": ("a.png", blobs(4)), "metadata": (None, f'{{"n": {number}}}')}
        response = client.put("/gallery/images/form", files=[(name, parts[name]) for name in names])
        assert response.json()["metadata"] == {"n": number}
    assert client.put("/gallery/images/form", files={"image": blobs(4)}).json()["metadata"] == {}


def test_deleted_image_is_not_found(client: httpx.Client) -> None:
    put(client, "gone", blobs(5), gone=1)
    assert [m["id"] for m in retrieve(client, blobs(5), where='{"gone": 1}')] == ["gone"]
    response = client.delete("/gallery/images/gone")
    assert (response.status_code, response.content) == (204, b"")
    assert retrieve(client, blobs(5), where='{"gone": 1}') == []
    assert "gone" not in [m["id"] for m in retrieve(client, blobs(5), k=100)]
    for path in ("", "/content", "/thumbnail", "/similar"):
        assert_problem(client.get(f"/gallery/images/gone{path}"), 404, "unknown-image", "'gone'")
    assert_problem(client.delete("/gallery/images/gone"), 404, "unknown-image")


def test_content_type_and_caching(client: httpx.Client) -> None:
    put(client, "kept.jpg", blobs(6))  # whatever its name says
    response = client.get("/gallery/images/kept.jpg/content")
    assert response.content == blobs(6)
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "private, no-cache"
    assert "sandbox" in response.headers["content-security-policy"]
    tag = response.headers["etag"]
    again = client.get("/gallery/images/kept.jpg/content", headers={"If-None-Match": f'"x", W/{tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    put(client, "kept.jpg", jpeg("cat"))
    changed = client.get("/gallery/images/kept.jpg/content", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.headers["content-type"]) == (200, "image/jpeg")


def test_thumbnail(client: httpx.Client) -> None:
    turned = photo("coffee").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    put(client, "thumb", encoded(turned, exif=exif, quality=95))
    response = client.get("/gallery/images/thumb/thumbnail")
    assert response.headers["content-type"] == "image/jpeg"
    small = Image.open(io.BytesIO(response.content))
    assert small.size == (256, 171)
    expected = np.asarray(photo("coffee").resize(small.size), np.float64)
    assert np.abs(np.asarray(small, np.float64) - expected).mean() < 6
    put(client, "thumb", blobs(7))
    assert Image.open(io.BytesIO(client.get("/gallery/images/thumb/thumbnail").content)).size == (48, 48)


@pytest.mark.slow
def test_pages_tell_every_image_once(serve: Callable[..., httpx.Client]) -> None:
    client = serve()
    for number in range(7):
        put(client, f"p{number}", blobs(100 + number), number=number)
    seen: list[str] = []
    cursor = None
    while True:
        parameters = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        response = client.get("/gallery/images", params=parameters)
        page = ImagesResponse.model_validate_json(response.content, strict=True)
        assert page.count == 7
        seen += [image.id for image in page.images]
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.images) == 3
    assert seen == [f"p{number}" for number in range(7)]
    assert listed(client, where='{"number": {"gt": 2, "lte": 4}}') == ["p3", "p4"]
    assert listed(client, limit=7) == seen
    assert client.get("/gallery/images?limit=7").json()["next_cursor"] is None


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"where": "[]"}, ["where: []", "object"]),
        ({"where": '{"a":'}, ["not JSON"]),
        ({"where": '{"a": {"like": 1}}'}, ["'like'", "gte"]),
        ({"limit": "0"}, ["limit"]),
        ({"limit": "1001"}, ["limit"]),
        ({"cursor": "a/b"}, ["'a/b'"]),
        ({"page": "2"}, ["'page'", "cursor"]),
    ],
)
def test_bad_parameters_of_a_list_are_422(
    client: httpx.Client, parameters: dict[str, str], words: list[str]
) -> None:
    assert_problem(client.get("/gallery/images", params=parameters), 422, "invalid-parameter", *words)


@pytest.mark.slow
def test_two_clients_put_and_delete_one_id(serve: Callable[..., httpx.Client]) -> None:
    client = serve()
    statuses: set[int] = set()

    def churn(seed: int) -> None:
        with http_client(client.base_url) as own:
            for number in range(6):
                data = blobs(400 + 10 * seed + number)
                statuses.add(own.put("/gallery/images/same", content=data).status_code)
                statuses.add(own.delete("/gallery/images/same").status_code)

    threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses <= {200, 201, 204, 404}
    status = client.get("/gallery").json()
    there = listed(client)
    assert status["images"] == len(there)
    assert [m["id"] for m in retrieve(client, blobs(400), k=100)] == there


@pytest.mark.slow
def test_gallery_after_a_restart(tiny_settings: Settings) -> None:
    with running(tiny_settings) as client:
        for number in range(5):
            put(client, f"r{number}", blobs(500 + number), number=number)
        client.delete("/gallery/images/r3")
        before = retrieve(client, blobs(501))
    with running(tiny_settings) as client:
        assert retrieve(client, blobs(501)) == before
        assert listed(client) == ["r0", "r1", "r2", "r4"]
        assert put(client, "r1", blobs(501), number=1)["status"] == "unchanged"


def test_every_route_documents_its_errors_with_examples(openapi: dict[str, Any]) -> None:
    paths = openapi["paths"]
    for path, operations in paths.items():
        if not path.startswith(("/gallery", "/retrieve")):
            continue
        for operation in operations.values():
            assert operation["description"]
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    examples = response["content"]["application/problem+json"]["examples"]
                    assert examples, (path, status)
    assert "409" in paths["/retrieve-similar"]["post"]["responses"]
    assert "507" in paths["/gallery/images/{id}"]["put"]["responses"]
