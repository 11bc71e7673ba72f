"""Many images in one request: each for itself, kept as it comes, few in memory at a time."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest

from service.api.body.parts import Part
from service.api.body.request import Bounds
from service.api.gallery_bulk import AddedOut, AddedResponse, Bulk
from service.gallery.gallery import Gallery
from service.gallery.records import Quota
from service.inference.pool import CorePool
from service.inference.registry import Registry
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder
from service.settings import Settings
from service.state import open_state
from tests.helpers.http_client import http_client
from tests.helpers.problems import assert_problem
from tests.service.gallery.calls import put
from tests.service.gallery.pictures import blobs, jpeg

pytestmark = pytest.mark.databases("sqlite", "postgresql")


@pytest.mark.slow
def test_bulk_upload(serve: Callable[..., httpx.Client]) -> None:
    client = serve()
    put(client, "mine", blobs(200))
    files = [
        ("image", ("a.png", blobs(201))),
        ("image", ("b.png", blobs(200))),
        ("image", ("c.png", b"no image")),
        ("metadata", (None, '{"n": 1}')),
        ("image", ("d.png", blobs(202))),
        ("metadata", (None, "[]")),
        ("image", ("e.png", blobs(203))),
        ("image", ("f.png", blobs(201))),
    ]
    response = client.post("/gallery/images", files=files)
    entries = AddedResponse.model_validate_json(response.content, strict=True).images
    assert [entry.status for entry in entries[1:5]] == ["exists", "rejected", "added", "rejected"]
    # the two of the same bytes may have been at work at the same time: one of them was first
    assert sorted((entries[0].status, entries[5].status)) == ["added", "exists"]
    assert entries[5].id == entries[0].id
    assert entries[1].id == "mine"
    assert "image: unknown type" in (entries[2].detail or "")
    assert "metadata" in (entries[4].detail or "")
    assert client.get(f"/gallery/images/{entries[3].id}").json()["metadata"] == {"n": 1}
    assert client.get("/gallery").json()["images"] == 3
    again = client.post("/gallery/images", files=files).json()["images"]
    assert [entry["status"] for entry in again] == [
        "exists",
        "exists",
        "rejected",
        "exists",
        "rejected",
        "exists",
    ]
    raw = client.post("/gallery/images", content=blobs(204)).json()["images"]
    assert [entry["status"] for entry in raw] == ["added"]


def test_bulk_form_without_image_or_end(client: httpx.Client) -> None:
    response = client.post("/gallery/images", files={"photo": blobs(0)})
    assert_problem(response, 400, "malformed-request", "'photo'")
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + blobs(12) + b"\r\n"
    cut = client.post("/gallery/images", content=part + b"--b\r\nContent-Dis", headers=headers)
    assert_problem(cut, 400, "malformed-request", "closing boundary")
    # what was whole before is kept: sent again, it exists
    whole = client.post("/gallery/images", content=part + b"--b--\r\n", headers=headers).json()["images"]
    assert [entry["status"] for entry in whole] == ["exists"]
    for body, content_type in (
        (b"--b--", "multipart/form-data"),
        (b"junk", "multipart/form-data; boundary=b"),
    ):
        response = client.post("/gallery/images", content=body, headers={"Content-Type": content_type})
        assert_problem(response, 400, "malformed-request")


def test_bulk_upload_size_limit(serve: Callable[..., httpx.Client]) -> None:
    client = serve(max_body_bytes=50_000)
    files = [("image", ("a.jpg", jpeg("cat"))), ("image", ("b.bin", bytes(60_000)))] * 3
    entries = client.post("/gallery/images", files=files).json()["images"]
    assert [entry["status"] for entry in entries[1::2]] == ["rejected"] * 3
    assert "60000 bytes (limit: 50000)" in entries[1]["detail"]
    assert {entry["status"] for entry in entries[::2]} <= {"added", "exists"}
    put_too_large = client.put("/gallery/images/a", files={"image": bytes(60_000)})
    assert_problem(put_too_large, 413, "body-too-large", "50000")
    assert_problem(client.put("/gallery/images/a", content=bytes(60_000)), 413, "body-too-large")


def test_images_are_committed_as_they_arrive(serve: Callable[..., httpx.Client]) -> None:
    """The first is listed before the last was sent: nothing waits for the form's end."""
    client = serve()
    with http_client(client.base_url) as other:

        def form() -> Iterator[bytes]:
            yield b"--b\r\n"
            for number in range(3):
                yield b'Content-Disposition: form-data; name="image"\r\n\r\n'
                yield blobs(300 + number) + (b"\r\n--b\r\n" if number < 2 else b"\r\n--b--\r\n")
                while other.get("/gallery").json()["images"] <= number:
                    pass

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        entries = client.post("/gallery/images", content=form(), headers=headers).json()["images"]
    assert [entry["status"] for entry in entries] == ["added"] * 3


def test_unknown_form_part(client: httpx.Client) -> None:
    image, note = ("image", ("a.png", blobs(220))), ("note", (None, "what is this?"))
    for files in ([image, note], [note, image]):
        response = client.post("/gallery/images", files=files)
        assert_problem(response, 422, "invalid-parameter", "unknown form field 'note'", "image, metadata")
    response = client.put("/gallery/images/a", files=[image, note])
    assert_problem(response, 422, "invalid-parameter", "unknown form field 'note'", "image, metadata")


def test_metadata_after_its_image(client: httpx.Client) -> None:
    """After it they would be lost, or be another image's, without a word."""
    image, metadata = ("image", ("a.png", blobs(210))), ("metadata", (None, '{"n": 1}'))
    for files in ([image, metadata], [metadata, metadata, image], [metadata]):
        response = client.post("/gallery/images", files=files)
        assert_problem(response, 400, "malformed-request", "without an image after it", "were added")
    [entry] = client.post("/gallery/images", files=[metadata, image]).json()["images"]
    assert (entry["status"], entry["detail"]) == (
        "exists",
        "stored with other metadata, which were not changed",
    )
    assert client.get(f"/gallery/images/{entry['id']}").json()["metadata"] == {}


@pytest.mark.slow
@pytest.mark.databases("sqlite")
def test_images_in_memory_during_bulk_upload(tiny_settings: Settings) -> None:
    """However many the form has: the next is only read when there is room."""
    registry = Registry(tiny_settings.model_dirs, "tiny")
    registry.load()
    state = open_state(tiny_settings.data_dir, tiny_settings.database_url)
    alive: weakref.WeakSet[Part] = weakref.WeakSet()
    most = 0

    async def form() -> AsyncIterator[Part]:
        nonlocal most
        for seed in range(100):
            part = Part("image", blobs(seed % 90), 0)
            alive.add(part)
            most = max(most, len(alive))
            yield part
            del part

    async def scenario() -> list[AddedOut]:
        metrics = Metrics({})
        pool = CorePool(2, 10)
        gallery = Gallery(
            registry,
            pool,
            Recorder(None, metrics),
            state.gallery,
            model="tiny",
            quota=Quota(1000, 10**9),
            data_dir=tiny_settings.data_dir,
            exact_up_to=1000,
            max_pixels=10**7,
            deadline_s=10,
        )
        added = await Bulk(gallery.writer, 2, Bounds(10**6, 10)).add(form())
        await gallery.close()
        pool.close()
        return added

    with state:
        entries = asyncio.run(scenario())
    assert [entry.status for entry in entries].count("added") == 90
    assert [entry.status for entry in entries].count("exists") == 10
    assert most <= 4
