"""Another network for the gallery: the old one answers meanwhile, and a restart does not lose the thread."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, delete, func, select

from service.gallery.database import GalleryDatabase
from service.gallery.embed import embed, embedder_of, load_for_embedding
from service.gallery.networks import KEPT_FOLDER
from service.gallery.tables import gallery_embeddings
from service.gallery.vectors import GalleryVectors
from service.inference.registry import Registry
from service.own_models.store import shared_models
from service.settings import Settings
from service.storage.database import open_database
from tests.conftest import make_tiny_model
from tests.helpers.problems import assert_problem
from tests.helpers.until import until
from tests.service.conftest import running
from tests.service.gallery.pictures import blobs

pytestmark = pytest.mark.databases("sqlite", "postgresql")

IMAGES = 12


def fill(client: httpx.Client) -> None:
    for seed in range(IMAGES):
        assert client.put(f"/gallery/images/i{seed:02}", content=blobs(seed)).status_code == 201


def best(client: httpx.Client, seed: int) -> tuple[str, str, float]:
    body = client.post("/retrieve-similar?k=1", content=blobs(seed)).json()
    return body["model"], body["matches"][0]["id"], body["matches"][0]["score"]


def reindexed(client: httpx.Client, model: str) -> None:
    until(lambda: client.get("/gallery").json()["reindexing"] is None, "reindexed")
    assert client.get("/gallery").json()["model"] == model


@contextmanager
def database_of(settings: Settings) -> Iterator[GalleryDatabase]:
    engine: Engine = open_database(settings.database_url, settings.data_dir)
    try:
        yield GalleryDatabase(engine)
    finally:
        engine.dispose()


@pytest.mark.slow
def test_reindex_activates_the_new_model(serve: Callable[..., httpx.Client], tiny_settings: Settings) -> None:
    client = serve()
    fill(client)
    before = client.get("/gallery/images/i00/similar?k=100").json()["matches"]
    response = client.post("/gallery/reindex?model=tiny-b")
    assert response.status_code == 202
    told = response.json()["reindexing"]
    assert (told["model"], told["total"], told["problem"]) == ("tiny-b", IMAGES, None)
    client.put("/gallery/images/late", content=blobs(99))
    client.delete("/gallery/images/i11")
    reindexed(client, "tiny-b")
    for seed in (0, 7, 99):
        model, id, score = best(client, seed)
        assert (model, id, score) == ("tiny-b", "late" if seed == 99 else f"i{seed:02}", 1.0)
    after = client.get("/gallery/images/i00/similar?k=100").json()["matches"]
    assert {m["id"] for m in after} == {m["id"] for m in before} - {"i11"} | {"late"}
    assert [m["score"] for m in after] != [m["score"] for m in before]
    assert_problem(
        client.post("/retrieve-similar?model=tiny", content=blobs(0)), 409, "other-model", "tiny-b"
    )
    with database_of(tiny_settings) as database:
        vectors = GalleryVectors(database)
        state = database.state()
        assert state.embedder is not None
        assert vectors.extent(state.embedder).count == IMAGES
        until(lambda: _embeddings(database) == IMAGES, "the old embeddings were dropped")


def _embeddings(database: GalleryDatabase) -> int:
    with database.reading() as connection:
        assert connection is not None
        return connection.execute(select(func.count()).select_from(gallery_embeddings)).scalar_one()


@pytest.mark.slow
def test_reindex_continues_after_a_restart(tiny_settings: Settings, tiny_models_dir: Path) -> None:
    """The process ended when half of the images were embedded anew."""
    with running(tiny_settings) as client:
        fill(client)
    registry = Registry([tiny_models_dir], "tiny")
    registry.load()
    model = registry.get("tiny-b")
    with database_of(tiny_settings) as database:
        vectors = GalleryVectors(database)
        vectors.start_reindex(embedder_of(model))
        keys = vectors.missing(embedder_of(model), 0, IMAGES // 2)
        images = [load_for_embedding(blobs(seed), model, max_pixels=10**6) for seed in range(IMAGES // 2)]
        vectors.backfill(embedder_of(model), {k: embed(i, model) for k, i in zip(keys, images, strict=True)})
        assert database.state().embedder == embedder_of(registry.get("tiny"))
    with running(tiny_settings) as client:
        reindexed(client, "tiny-b")
        assert [best(client, seed)[1:] for seed in (0, 11)] == [("i00", 1.0), ("i11", 1.0)]


@pytest.mark.slow
def test_reindex_back_and_forth(
    serve: Callable[..., httpx.Client],
) -> None:
    """An index that followed its network's embeddings while they were dropped and made again missed some."""
    client = serve()
    there = {f"i{seed:02}": seed for seed in range(IMAGES)}
    fill(client)
    for turn in range(2):
        assert best(client, 5)[1:] == ("i05", 1.0)  # opens the index of the model that answers
        for number, model in enumerate(("tiny-b", "tiny")):  # without a search in between
            seed = 100 + 10 * turn + number
            assert client.post(f"/gallery/reindex?model={model}").status_code == 202
            client.put(f"/gallery/images/n{seed}", content=blobs(seed))
            there[f"n{seed}"] = seed
            reindexed(client, model)
        client.delete(f"/gallery/images/i{10 + turn}")
        del there[f"i{10 + turn}"]
        for _ in range(2):  # as the database streams them, then as the index has them
            found = client.post("/retrieve-similar?k=100", content=blobs(5)).json()["matches"]
            assert {match["id"] for match in found} == set(there)
            until(lambda: client.get("/gallery").json()["search"]["mode"] == "exact", "the index is there")


@pytest.mark.slow
def test_reindex_with_the_active_model_cancels(serve: Callable[..., httpx.Client]) -> None:
    client = serve()
    fill(client)
    client.post("/gallery/reindex?model=tiny-b")
    body = client.post("/gallery/reindex?model=tiny").json()
    # it may have been done by then; in either case one model answers in the end
    if body["reindexing"] is not None:
        reindexed(client, "tiny")
    assert best(client, 3) == (client.get("/gallery").json()["model"], "i03", 1.0)


def test_reindex_of_an_empty_gallery(serve: Callable[..., httpx.Client]) -> None:
    client = serve()
    body = client.post("/gallery/reindex?model=tiny-b").json()
    assert (body["model"], body["reindexing"]) == ("tiny-b", None)
    client.put("/gallery/images/a", content=blobs(0))
    assert best(client, 0) == ("tiny-b", "a", 1.0)


def test_a_model_that_is_not_there_is_404(serve: Callable[..., httpx.Client]) -> None:
    client = serve()
    assert_problem(client.post("/gallery/reindex?model=resnet"), 404, "unknown-model", "resnet")
    assert_problem(client.post("/gallery/reindex"), 422, "invalid-parameter", "model")
    assert client.get("/gallery").json()["reindexing"] is None


@pytest.mark.slow
def test_gallery_model_setting(
    tiny_settings: Settings,
) -> None:
    with running(tiny_settings.model_copy(update={"gallery_model": "tiny-b"})) as client:
        client.put("/gallery/images/a", content=blobs(0))
        assert best(client, 0)[0] == "tiny-b"
    with running(tiny_settings) as client:
        assert best(client, 0) == ("tiny-b", "a", 1.0)


@pytest.mark.slow
def test_a_gallery_whose_model_and_copy_are_gone_says_so_and_can_be_reindexed(
    tiny_settings: Settings, tmp_path: Path
) -> None:
    make_tiny_model(tmp_path / "zoo", "mine", seed=5)
    make_tiny_model(tmp_path / "other", "mine", seed=6)
    make_tiny_model(tmp_path / "none", "yours", seed=7)

    def settings(zoo: str, default: str) -> Settings:
        return tiny_settings.model_copy(update={"model_dirs": (tmp_path / zoo,), "default_model": default})

    with running(settings("zoo", "mine")) as client:
        client.put("/gallery/images/a", content=blobs(0))
        client.put("/gallery/images/b", content=blobs(1))
    shutil.rmtree(tiny_settings.data_dir / KEPT_FOLDER)
    with database_of(tiny_settings) as database, database.writing() as (connection, _):
        connection.execute(delete(shared_models))  # replicas have copies there
    with running(settings("none", "yours")) as client:
        problem = client.post("/retrieve-similar", content=blobs(0))
        assert_problem(problem, 503, "model-unavailable", "'mine'", "not served", "re-index")
        assert_problem(client.put("/gallery/images/c", content=blobs(2)), 503, "model-unavailable")
        assert client.get("/gallery/images/a/content").content == blobs(0)
    with running(settings("other", "mine")) as client:
        problem = client.post("/retrieve-similar", content=blobs(0))
        assert_problem(problem, 503, "model-unavailable", "another file of model 'mine'")
        assert "weighin gallery reindex --model mine" in problem.json()["detail"]
        client.post("/gallery/reindex?model=mine")
        reindexed(client, "mine")
        assert best(client, 1) == ("mine", "b", 1.0)
