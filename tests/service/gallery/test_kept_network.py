"""The gallery goes on with the network that embedded it when another takes that one's name, or none does."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from models.zoo.card import read_card, write_card
from service.gallery.networks import KEPT_FOLDER
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.problems import assert_problem
from tests.helpers.swap import replace_model
from tests.helpers.until import until
from tests.service.conftest import running
from tests.service.gallery.pictures import blobs

pytestmark = pytest.mark.databases("sqlite", "postgresql")


@pytest.fixture
def settings(tiny_settings: Settings, tmp_path: Path) -> Settings:
    """A service with the model `mine`, which embeds the gallery, and the default model `other`."""
    make_tiny_model(tmp_path / "zoo", "mine", seed=5)
    make_tiny_model(tmp_path / "zoo", "other", seed=6)
    changes = {"model_dirs": (tmp_path / "zoo",), "default_model": "other", "gallery_model": "mine"}
    return tiny_settings.model_copy(update=changes)


def fill(client: httpx.Client) -> None:
    for seed in range(8):
        assert client.put(f"/gallery/images/i{seed}", content=blobs(seed)).status_code == 201


def scores(client: httpx.Client, seed: int = 3) -> list[tuple[str, float]]:
    """The matches of an image that is not there itself."""
    response = client.post("/retrieve-similar", content=blobs(100 + seed))
    assert response.status_code == 200, response.text
    assert response.json()["model"] == "mine"
    return [(match["id"], match["score"]) for match in response.json()["matches"]]


def version(client: httpx.Client) -> str:
    served: str = client.get("/models/mine").json()["version"]
    return served


@pytest.mark.slow
def test_a_replaced_network_answers_until_the_gallery_is_reindexed(
    settings: Settings, tmp_path: Path
) -> None:
    kept = settings.data_dir / KEPT_FOLDER
    with running(settings) as client:
        fill(client)
        before = scores(client)
        old = version(client)
        assert [path.name for path in kept.iterdir()] == [f"mine@{old[:12]}"]
        sha256 = replace_model(tmp_path / "zoo/mine", seed=9)
        until(lambda: version(client) == sha256, "the new version is served")
        assert client.get("/gallery").json()["replaced"] is True
        assert scores(client) == before
        assert client.put("/gallery/images/late", content=blobs(50)).status_code == 201
        client.delete("/gallery/images/late")
    with running(settings) as client:  # and after a restart
        assert version(client) == sha256
        assert scores(client) == before
        assert client.get("/gallery").json()["replaced"] is True
        assert client.post("/gallery/reindex?model=mine").status_code == 202
        until(lambda: client.get("/gallery").json()["reindexing"] is None, "re-indexed")
        assert client.get("/gallery").json()["replaced"] is False
        assert scores(client) != before
        until(lambda: [path.name for path in kept.iterdir()] == [f"mine@{sha256[:12]}"], "released")


@pytest.mark.slow
def test_another_preprocessing_of_the_same_file_is_another_network(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "zoo/mine"
    card = read_card(folder).model_copy(update={"schema_version": 2})
    write_card(folder, card)
    with running(settings) as client:
        fill(client)
        before = scores(client)
        spec = card.input.model_copy(update={"colour_order": "bgr", "mean": (0.0,) * 3, "std": (255.0,) * 3})
        write_card(folder, card.model_copy(update={"input": spec}))
        until(lambda: client.get("/gallery").json()["replaced"], "the replacement is noticed")
        assert scores(client) == before
    with running(settings) as client:
        assert scores(client) == before
        assert client.post("/gallery/reindex?model=mine").status_code == 202
        until(lambda: client.get("/gallery").json()["reindexing"] is None, "re-indexed")
        assert client.get("/gallery").json()["replaced"] is False
        assert scores(client) != before


@pytest.mark.slow
def test_a_gallery_never_begins_with_a_network_that_is_not_on_disk(
    settings: Settings, tmp_path: Path
) -> None:
    """The folder's new content is refused, so the network that is served cannot be copied any more."""
    model = tmp_path / "zoo/mine/model.onnx"
    whole = model.read_bytes()
    with running(settings) as client:
        model.write_bytes(whole[:1000])
        until(lambda: client.get("/models/mine").json()["refused"] is not None, "the copy is refused")
        problem = client.put("/gallery/images/a", content=blobs(0))
        assert_problem(problem, 503, "model-unavailable", "gallery: no copy of model 'mine' can be kept")
        assert client.get("/gallery").json()["images"] == 0
        assert_problem(client.post("/gallery/reindex?model=mine"), 503, "model-unavailable", "no copy")
        model.write_bytes(whole)
        until(lambda: client.get("/models/mine").json()["refused"] is None, "it is whole again")
        fill(client)
        before = scores(client)
    shutil.rmtree(tmp_path / "zoo/mine")
    with running(settings) as client:
        assert scores(client) == before


@pytest.mark.slow
def test_the_copy_has_the_labels_of_the_network_that_is_served(settings: Settings, tmp_path: Path) -> None:
    labels = tmp_path / "zoo/mine/labels.txt"
    with running(settings) as client:
        labels.write_text("one\n")
        until(lambda: client.get("/models/mine").json()["refused"] is not None, "the labels are refused")
        fill(client)
        before = scores(client)
    shutil.rmtree(tmp_path / "zoo/mine")
    with running(settings) as client:
        assert scores(client) == before


@pytest.mark.slow
def test_a_removed_network_goes_on_answering(settings: Settings, tmp_path: Path) -> None:
    with running(settings) as client:
        fill(client)
        before = scores(client)
        shutil.rmtree(tmp_path / "zoo/mine")
        until(lambda: client.get("/models/mine").status_code == 404, "the folder is missed")
        assert scores(client) == before
    with running(settings) as client:
        assert scores(client) == before
        assert client.get("/gallery").json() | {"search": None} == {
            "model": "mine",
            "replaced": True,
            "images": 8,
            "bytes": client.get("/gallery").json()["bytes"],
            "quota": client.get("/gallery").json()["quota"],
            "search": None,
            "reindexing": None,
        }


@pytest.mark.slow
def test_a_gallery_of_an_earlier_release_gets_its_copy_at_start(settings: Settings, tmp_path: Path) -> None:
    with running(settings) as client:
        fill(client)
        before = scores(client)
    shutil.rmtree(settings.data_dir / KEPT_FOLDER)
    with running(settings):
        sha256 = read_card(tmp_path / "zoo/mine").file.sha256
        copy = settings.data_dir / KEPT_FOLDER / f"mine@{sha256[:12]}"
        until(copy.is_dir, "the copy is there")
    replace_model(tmp_path / "zoo/mine", seed=9)
    with running(settings) as client:
        assert scores(client) == before
