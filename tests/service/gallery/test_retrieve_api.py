"""POST /retrieve-similar and /similar, on both databases: what is like what, how it is told and recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.api.gallery import GalleryOut
from service.api.gallery_images import SimilarResponse
from service.api.retrieve import RetrievalResponse
from service.gallery.embed import embed, load_for_embedding
from service.latency.stages import STAGES
from tests.helpers.networks import served
from tests.helpers.problems import assert_problem
from tests.service.gallery.calls import put, retrieve
from tests.service.gallery.pictures import PHOTOS, blobs, encoded, jpeg, photo

pytestmark = pytest.mark.databases("sqlite", "postgresql")


def test_hint_of_an_empty_gallery(serve: Callable[..., httpx.Client], cat_jpeg: bytes) -> None:
    client = serve()
    response = client.post("/retrieve-similar", content=cat_jpeg)
    assert response.status_code == 200
    body = RetrievalResponse.model_validate_json(response.content, strict=True)
    assert (body.model, body.matches) == ("tiny", [])
    assert "/gallery/images" in (body.hint or "")
    status = GalleryOut.model_validate_json(client.get("/gallery").content, strict=True)
    assert (status.images, status.bytes, status.search, status.reindexing) == (0, 0, None, None)
    assert client.get("/gallery/images").json() == {"images": [], "next_cursor": None, "count": 0}
    assert_problem(client.get("/gallery/images/none"), 404, "unknown-image", "none")
    assert_problem(client.post("/retrieve-similar", content=b"text"), 415, "unknown-image-type")


@pytest.mark.slow
def test_search_with_a_stored_photograph_and_copies(client: httpx.Client) -> None:
    for name in PHOTOS:
        assert put(client, f"photo-{name}.jpg", jpeg(name), name=name)["status"] == "added"
    where = json.dumps({"name": {"gte": ""}})
    for name in PHOTOS:
        first, *others = retrieve(client, jpeg(name), where=where, k=5)
        assert (first["id"], first["score"], first["duplicate"]) == (f"photo-{name}.jpg", 1.0, "exact")
        assert first["metadata"] == {"name": name}
        assert first["image_url"] == f"/gallery/images/photo-{name}.jpg/content"
        assert client.get(first["image_url"]).content == jpeg(name)
        assert len(others) == len(PHOTOS) - 1
        recompressed = encoded(photo(name), quality=40)
        [near] = retrieve(client, recompressed, where=where, k=1)
        assert (near["id"], near["duplicate"]) == (f"photo-{name}.jpg", "near")
    assert {m["duplicate"] for m in retrieve(client, blobs(0), where=where)} == {None}


def test_scores_are_cosines_of_the_networks_embeddings(client: httpx.Client, tiny_models_dir: Path) -> None:
    model = served(tiny_models_dir / "tiny")
    vectors = {name: embed(load_for_embedding(jpeg(name), model, max_pixels=10**7), model) for name in PHOTOS}
    for name in PHOTOS:
        put(client, f"cosine-{name}", jpeg(name), cosine=True)
    found = retrieve(client, jpeg("cat"), where='{"cosine": true}')
    for match in found:
        cosine = float(vectors["cat"] @ vectors[match["id"].removeprefix("cosine-")])
        assert match["score"] == pytest.approx(cosine, abs=1e-5)
    least = found[2]["score"]
    assert retrieve(client, jpeg("cat"), where='{"cosine": true}', min_score=least) == found[:3]


def test_ties_are_ordered_by_id(client: httpx.Client) -> None:
    for id in ("tie-c", "tie-B", "tie-a", "tie-10"):
        put(client, id, blobs(1), tie=1)
    found = retrieve(client, blobs(1), where='{"tie": 1}', k=3)
    assert [(match["id"], match["score"]) for match in found] == [("tie-10", 1), ("tie-B", 1), ("tie-a", 1)]


def test_search_latency_is_recorded(serve: Callable[..., httpx.Client], cat_jpeg: bytes) -> None:
    client = serve()
    put(client, "a", blobs(2))
    response = client.post("/retrieve-similar", files={"image": cat_jpeg})
    timings = response.json()["timings_ms"]
    assert tuple(timings) == tuple(stage for stage in STAGES if stage != "nms")
    assert timings["total"] == pytest.approx(sum(timings.values()) - timings["total"], abs=0.01)
    header = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
    assert {stage: float(value) for stage, value in header.items()} == timings
    assert response.json()["image"] == {
        "width": 451,
        "height": 300,
        "format": "jpeg",
        "bytes": len(cat_jpeg),
    }
    rows = {row["stage"]: row for row in client.get("/latency?model=tiny").json()["latencies"]}
    assert {stage: row["count"] for stage, row in rows.items()} == {
        **dict.fromkeys(STAGES, 1),
        "total": 0,  # that of classifications: the two are not pooled
        "nms": 0,
    }
    assert rows["search"]["max_ms"] == pytest.approx(timings["search"], abs=0.01)
    client.post("/retrieve-similar", content=b"text")
    rows = {row["stage"]: row for row in client.get("/latency?model=tiny").json()["latencies"]}
    assert rows["total"]["errors"] == {"unknown-image-type": 1}
    assert 'stage="search"' in client.get("/metrics").text


def test_a_kept_image_finds_the_others(client: httpx.Client) -> None:
    for name in ("cat", "coffee"):
        put(client, f"alike-{name}", jpeg(name), alike=1)
    put(client, "alike-again", encoded(photo("cat"), quality=50), alike=1)
    response = client.get("/gallery/images/alike-cat/similar", params={"where": '{"alike": 1}', "k": 2})
    body = SimilarResponse.model_validate_json(response.content, strict=True)
    assert [(match.id, match.duplicate) for match in body.matches] == [
        ("alike-again", "near"),
        ("alike-coffee", None),
    ]
    asked = retrieve(client, jpeg("cat"), where='{"alike": 1}')
    assert [m["score"] for m in asked if m["id"] != "alike-cat"] == [m.score for m in body.matches]


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"k": 0}, "k"),
        ({"k": 101}, "k"),
        ({"min_score": 1.5}, "min_score"),
        ({"min_score": "nan"}, "min_score"),
        ({"where": "1"}, "where"),
    ],
)
def test_invalid_search_parameters(client: httpx.Client, parameters: dict[str, object], word: str) -> None:
    response = client.post("/retrieve-similar", params=parameters, content=blobs(0))
    assert_problem(response, 422, "invalid-parameter", word)


def test_expected_model_differs(client: httpx.Client, cat_jpeg: bytes) -> None:
    put(client, "anything", blobs(11))
    response = client.post("/retrieve-similar?model=tiny-b", content=cat_jpeg)
    assert_problem(response, 409, "other-model", "'tiny'", "'tiny-b'")
    assert_problem(client.post("/retrieve-similar?model=resnet", content=cat_jpeg), 404, "unknown-model")
    assert client.post("/retrieve-similar?model=tiny", content=cat_jpeg).status_code == 200
