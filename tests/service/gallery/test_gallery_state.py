"""The gallery where state cannot be written, and where there is none: nothing else is disturbed."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.helpers.forked import call_forked
from tests.helpers.problems import assert_problem
from tests.service.conftest import running
from tests.service.gallery.pictures import blobs


def test_read_only_storage(serve: Callable[..., httpx.Client], tmp_path: Path, cat_jpeg: bytes) -> None:
    (tmp_path / "file").write_text("a directory cannot be made below this")
    client = serve(data_dir=tmp_path / "file" / "data")
    files = [("image", ("a.png", blobs(1))), ("image", ("b.png", blobs(2)))]
    for response in (
        client.put("/gallery/images/a", content=blobs(1)),
        client.delete("/gallery/images/a"),
        client.post("/gallery/images", files=files),
        client.post("/gallery/reindex?model=tiny-b"),
    ):
        assert_problem(response, 507, "storage-unavailable", "cannot be written")
    assert client.post("/classify", content=cat_jpeg).status_code == 200
    body = client.post("/retrieve-similar", content=cat_jpeg).json()
    assert (body["matches"], body["hint"] is None) == ([], False)
    assert client.get("/gallery").json()["images"] == 0
    assert client.get("/readyz").json()["degraded"] is not None


def test_damaged_database(serve: Callable[..., httpx.Client], tmp_path: Path, cat_jpeg: bytes) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "weighin.db").write_bytes(b"mine, and no database " * 1000)
    client = serve()
    for response in (
        client.put("/gallery/images/a", content=blobs(1)),
        client.get("/gallery/images"),
        client.post("/retrieve-similar", content=cat_jpeg),
    ):
        assert_problem(response, 507, "storage-unavailable", "damaged")
    assert client.post("/classify", content=cat_jpeg).status_code == 200


def test_default_threshold() -> None:
    from service.gallery.index.embedded import EXACT_UP_TO

    assert Settings.model_fields["gallery_exact_up_to"].default == EXACT_UP_TO


def serve_without_and_with_a_gallery(settings: Settings, picture: bytes) -> str:
    """Return what is loaded and runs before there is a gallery, and with one, as JSON."""
    states = []

    def note() -> None:
        threads = [thread.name for thread in threading.enumerate()]
        states.append({"modules": sorted(sys.modules), "threads": threads})

    with running(settings) as client:
        assert client.post("/classify", content=picture).status_code == 200
        assert client.get("/gallery").json()["images"] == 0
        note()
        client.put("/gallery/images/a", content=picture)
        client.get("/gallery/images/a/similar")
        note()
    return json.dumps(states)


@pytest.mark.slow
def test_no_index_library_without_a_gallery(tiny_settings: Settings, cat_jpeg: bytes) -> None:
    """And who has one does, so the test would notice if the library had another name."""
    states = json.loads(call_forked(serve_without_and_with_a_gallery, tiny_settings, cat_jpeg))
    assert ["usearch" in state["modules"] for state in states] == [False, True]
    assert [any(name.startswith("gallery-index") for name in state["threads"]) for state in states] == [
        False,
        True,
    ]
