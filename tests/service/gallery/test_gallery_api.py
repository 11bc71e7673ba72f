"""The gallery over HTTP, on both databases: what is put is there and found, what is removed is neither."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from models.zoo.card import read_card
from service.api.gallery_schemas import (
    AddedResponse,
    GalleryOut,
    ImageOut,
    ImagesResponse,
    PutOut,
    RetrievalResponse,
    SimilarResponse,
)
from service.gallery.embedder import decode_for, embed
from service.session import OnnxSession
from service.settings import Settings
from service.stages import STAGES
from tests.service.conftest import running
from tests.service.gallery.pictures import PHOTOS, blobs, encoded, jpeg, photo
from tests.service.problems import assert_problem

pytestmark = pytest.mark.databases("sqlite", "postgresql")


def put(client: httpx.Client, id: str, data: bytes, **metadata: object) -> dict[str, Any]:
    parameters = {"metadata": json.dumps(metadata)} if metadata else None
    response = client.put(f"/gallery/images/{id}", content=data, params=parameters)
    assert response.status_code in (200, 201), response.text
    PutOut.model_validate_json(response.content, strict=True)
    body: dict[str, Any] = response.json()
    assert (body["status"] == "added") == (response.status_code == 201)
    return body


def retrieve(client: httpx.Client, data: bytes, **parameters: object) -> list[dict[str, Any]]:
    response = client.post("/retrieve-similar", content=data, params=parameters)
    assert response.status_code == 200, response.text
    RetrievalResponse.model_validate_json(response.content, strict=True)
    matches: list[dict[str, Any]] = response.json()["matches"]
    assert matches == sorted(matches, key=lambda match: (-match["score"], match["id"]))
    return matches


def listed(client: httpx.Client, **parameters: object) -> list[str]:
    response = client.get("/gallery/images", params=parameters)
    assert response.status_code == 200, response.text
    return [image["id"] for image in response.json()["images"]]


def test_an_empty_gallery_answers_with_no_matches_and_a_hint(
    serve: Callable[..., httpx.Client], cat_jpeg: bytes
) -> None:
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


def test_a_photograph_finds_itself_and_its_copies(client: httpx.Client) -> None:
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
    folder = tiny_models_dir / "tiny"
    card = read_card(folder)
    session = OnnxSession((folder / "model.onnx").read_bytes(), card)

    class Model:
        name = "tiny"

    Model.card, Model.session = card, session  # type: ignore[attr-defined]
    vectors = {
        name: embed(decode_for(Model, jpeg(name), max_pixels=10**7), Model)  # type: ignore[arg-type]
        for name in PHOTOS
    }
    for name in PHOTOS:
        put(client, f"cosine-{name}", jpeg(name), cosine=True)
    found = retrieve(client, jpeg("cat"), where='{"cosine": true}')
    for match in found:
        cosine = float(vectors["cat"] @ vectors[match["id"].removeprefix("cosine-")])
        assert match["score"] == pytest.approx(cosine, abs=1e-5)
    least = found[2]["score"]
    assert retrieve(client, jpeg("cat"), where='{"cosine": true}', min_score=least) == found[:3]


def test_equal_scores_are_in_the_order_of_ids(client: httpx.Client) -> None:
    for id in ("tie-c", "tie-B", "tie-a", "tie-10"):
        put(client, id, blobs(1), tie=1)
    found = retrieve(client, blobs(1), where='{"tie": 1}', k=3)
    assert [(match["id"], match["score"]) for match in found] == [("tie-10", 1), ("tie-B", 1), ("tie-a", 1)]


def test_what_a_search_takes_is_told_and_recorded(
    serve: Callable[..., httpx.Client], cat_jpeg: bytes
) -> None:
    client = serve()
    put(client, "a", blobs(2))
    response = client.post("/retrieve-similar", files={"image": cat_jpeg})
    timings = response.json()["timings_ms"]
    assert tuple(timings) == STAGES
    assert timings["total"] == pytest.approx(sum(timings[s] for s in STAGES if s != "total"), abs=0.01)
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
    }
    assert rows["search"]["max_ms"] == pytest.approx(timings["search"], abs=0.01)
    client.post("/retrieve-similar", content=b"text")
    rows = {row["stage"]: row for row in client.get("/latency?model=tiny").json()["latencies"]}
    assert rows["total"]["errors"] == {"unknown-image-type": 1}
    assert 'stage="search"' in client.get("/metrics").text


def test_put_says_whether_it_is_new_replaced_or_unchanged(client: httpx.Client) -> None:
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


def test_a_form_takes_metadata_in_either_order(client: httpx.Client) -> None:
    for number, names in enumerate((("image", "metadata"), ("metadata", "image"))):
        parts = {"image": ("a.png", blobs(4)), "metadata": (None, f'{{"n": {number}}}')}
        response = client.put("/gallery/images/form", files=[(name, parts[name]) for name in names])
        assert response.json()["metadata"] == {"n": number}
    assert client.put("/gallery/images/form", files={"image": blobs(4)}).json()["metadata"] == {}


def test_an_image_that_was_removed_is_gone_at_once(client: httpx.Client) -> None:
    put(client, "gone", blobs(5), gone=1)
    assert [m["id"] for m in retrieve(client, blobs(5), where='{"gone": 1}')] == ["gone"]
    response = client.delete("/gallery/images/gone")
    assert (response.status_code, response.content) == (204, b"")
    assert retrieve(client, blobs(5), where='{"gone": 1}') == []
    assert "gone" not in [m["id"] for m in retrieve(client, blobs(5), k=100)]
    for path in ("", "/content", "/thumbnail", "/similar"):
        assert_problem(client.get(f"/gallery/images/gone{path}"), 404, "unknown-image", "'gone'")
    assert_problem(client.delete("/gallery/images/gone"), 404, "unknown-image")


def test_the_bytes_are_kept_with_their_type_and_can_be_cached(client: httpx.Client) -> None:
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


def test_a_thumbnail_is_small_upright_and_the_same_picture(client: httpx.Client) -> None:
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
        ({"where": "[]"}, ["where is []", "object"]),
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
def test_bad_parameters_of_a_search_are_422(
    client: httpx.Client, parameters: dict[str, object], word: str
) -> None:
    response = client.post("/retrieve-similar", params=parameters, content=blobs(0))
    assert_problem(response, 422, "invalid-parameter", word)


@pytest.mark.parametrize("id", ["a b", "ä", "x" * 256, "%00", "a;b", "..", "."])
def test_an_impossible_id_is_422_and_keeps_nothing(client: httpx.Client, id: str) -> None:
    # httpx would resolve dots, so they are sent as a careless client would
    path = f"/gallery/images/{id.replace('.', '%2E')}"
    response = client.put(path, content=blobs(8))
    assert_problem(response, 422, "invalid-parameter", "1 to 255")
    assert_problem(client.get(f"{path}/content"), 422, "invalid-parameter", "1 to 255")


def test_an_id_that_would_climb_out_leads_nowhere(client: httpx.Client) -> None:
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
def test_metadata_that_cannot_be_kept_are_422(client: httpx.Client, metadata: str, word: str) -> None:
    response = client.put("/gallery/images/meta", params={"metadata": metadata}, content=blobs(9))
    body = assert_problem(response, 422, "invalid-parameter", "metadata")
    assert re.search(word, body["detail"])
    files = {"metadata": (None, metadata), "image": blobs(9)}
    assert_problem(client.put("/gallery/images/meta", files=files), 422, "invalid-parameter", "metadata")
    assert_problem(client.get("/gallery/images/meta"), 404, "unknown-image")


def test_ten_megabytes_of_metadata_are_422(client: httpx.Client) -> None:
    huge = json.dumps({"a": "x" * 10_000_000})
    files = [("metadata", (None, huge)), ("image", ("a.png", blobs(9)))]
    response = client.put("/gallery/images/huge", files=files)
    assert_problem(response, 422, "invalid-parameter", "metadata has 10000009 bytes", "16384")
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
def test_a_form_with_other_parts_is_400(client: httpx.Client, files: Any) -> None:
    response = client.put("/gallery/images/parts", files=files)
    assert_problem(response, 400, "malformed-request", "'image'", "its parts are")


def test_bytes_that_are_no_image_are_refused_and_leave_what_was_there(client: httpx.Client) -> None:
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


def test_another_model_than_the_gallerys_is_409(client: httpx.Client, cat_jpeg: bytes) -> None:
    put(client, "anything", blobs(11))
    response = client.post("/retrieve-similar?model=tiny-b", content=cat_jpeg)
    assert_problem(response, 409, "other-model", "'tiny'", "'tiny-b'")
    assert_problem(client.post("/retrieve-similar?model=resnet", content=cat_jpeg), 404, "unknown-model")
    assert client.post("/retrieve-similar?model=tiny", content=cat_jpeg).status_code == 200


def test_many_are_added_at_once_each_for_itself(serve: Callable[..., httpx.Client]) -> None:
    client = serve()
    put(client, "mine", blobs(200))
    files = [
        ("image", ("a.png", blobs(201))),
        ("image", ("b.png", blobs(200))),
        ("note", (None, "what is this?")),
        ("image", ("c.png", b"no image")),
        ("metadata", (None, '{"n": 1}')),
        ("image", ("d.png", blobs(202))),
        ("metadata", (None, "[]")),
        ("image", ("e.png", blobs(203))),
        ("image", ("f.png", blobs(201))),
    ]
    response = client.post("/gallery/images", files=files)
    entries = AddedResponse.model_validate_json(response.content, strict=True).images
    statuses = ["added", "exists", "rejected", "added", "rejected"]
    assert [entry.status for entry in entries[:5]] == statuses
    # the two of the same bytes may have been at work at the same time: one of them was first
    assert entries[5].id == entries[0].id
    assert entries[1].id == "mine"
    assert "no known image type" in (entries[2].detail or "")
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


def test_a_form_of_many_without_an_image_or_end_is_400(client: httpx.Client) -> None:
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


def test_each_image_of_many_has_the_limit_of_one(serve: Callable[..., httpx.Client]) -> None:
    client = serve(max_body_bytes=50_000)
    files = [("image", ("a.jpg", jpeg("cat"))), ("image", ("b.bin", bytes(60_000)))] * 3
    entries = client.post("/gallery/images", files=files).json()["images"]
    assert [entry["status"] for entry in entries[1::2]] == ["rejected"] * 3
    assert "60000 bytes; 50000 are allowed" in entries[1]["detail"]
    assert {entry["status"] for entry in entries[::2]} <= {"added", "exists"}
    put_too_large = client.put("/gallery/images/a", files={"image": bytes(60_000)})
    assert_problem(put_too_large, 413, "body-too-large", "50000")
    assert_problem(client.put("/gallery/images/a", content=bytes(60_000)), 413, "body-too-large")


def test_a_stream_of_images_is_kept_while_it_comes(serve: Callable[..., httpx.Client]) -> None:
    """The first is listed before the last was sent: nothing waits for the form's end."""
    client = serve()
    with httpx.Client(base_url=client.base_url, trust_env=False) as other:

        def form() -> Iterator[bytes]:
            for number in range(3):
                yield b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
                yield blobs(300 + number) + b"\r\n"
                yield b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\n.\r\n'
                while other.get("/gallery").json()["images"] <= number:
                    pass
            yield b"--b--\r\n"

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        entries = client.post("/gallery/images", content=form(), headers=headers).json()["images"]
    assert [entry["status"] for entry in entries] == ["added"] * 3


def test_the_quota_is_507_and_what_is_there_stays(serve: Callable[..., httpx.Client]) -> None:
    client = serve(gallery_max_images=2)
    put(client, "a", blobs(20))
    files = [("image", ("x.png", blobs(seed))) for seed in (21, 22)]
    entries = client.post("/gallery/images", files=files).json()["images"]
    assert sorted(entry["status"] for entry in entries) == ["added", "rejected"]
    assert_problem(client.put("/gallery/images/c", content=blobs(23)), 507, "gallery-full", "2 are allowed")
    others = [("image", ("x.png", blobs(seed))) for seed in (30, 31)]
    assert_problem(client.post("/gallery/images", files=others), 507, "gallery-full", "2 are allowed")
    assert put(client, "a", blobs(24))["status"] == "replaced"
    assert client.get("/gallery").json()["quota"]["images"] == 2
    assert len(listed(client)) == 2
    client.delete("/gallery/images/a")
    assert put(client, "c", blobs(23))["status"] == "added"


def test_the_quota_on_bytes_is_507(serve: Callable[..., httpx.Client]) -> None:
    client = serve(gallery_max_bytes=len(blobs(25)) + 10)
    put(client, "a", blobs(25))
    response = client.put("/gallery/images/b", content=blobs(26))
    assert_problem(response, 507, "gallery-full", "bytes", "are allowed")
    assert listed(client) == ["a"]


def test_the_key_guards_what_changes_the_gallery_and_nothing_else(serve: Callable[..., httpx.Client]) -> None:
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


def test_pages_of_other_sites_may_not_change_the_gallery(serve: Callable[..., httpx.Client]) -> None:
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


def test_two_clients_that_put_and_delete_one_id_leave_one_state(serve: Callable[..., httpx.Client]) -> None:
    client = serve()
    statuses: set[int] = set()

    def churn(seed: int) -> None:
        with httpx.Client(base_url=client.base_url, timeout=30, trust_env=False) as own:
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


def test_what_was_kept_is_there_after_a_restart(tiny_settings: Settings) -> None:
    with running(tiny_settings) as client:
        for number in range(5):
            put(client, f"r{number}", blobs(500 + number), number=number)
        client.delete("/gallery/images/r3")
        before = retrieve(client, blobs(501))
    with running(tiny_settings) as client:
        assert retrieve(client, blobs(501)) == before
        assert listed(client) == ["r0", "r1", "r2", "r4"]
        assert put(client, "r1", blobs(501), number=1)["status"] == "unchanged"


def test_every_route_documents_its_errors_with_examples(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
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
