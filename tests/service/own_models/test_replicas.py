"""Replicas on one PostgreSQL: a model that is added, replaced or deleted at one of them changes at all."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tracemalloc
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, event

from models.zoo.card import read_card
from service.api import model_changer
from service.api.model_changer import ModelChanger
from service.errors import Busy, DatabaseUnreachable, ModelUnavailable, NotReady
from service.gallery import networks as gallery_networks
from service.gallery.networks import KEPT_FOLDER
from service.inference.registry import Registry
from service.own_models import store
from service.own_models.folders import MARKER, is_shared
from service.own_models.replicas import SharedModels
from service.own_models.store import ModelStore, digest_of_folder
from service.own_models.trial import Bounds
from service.settings import Settings
from service.storage.database import open_database
from tests.conftest import make_tiny_model
from tests.helpers.postgres import run_sql
from tests.helpers.problems import assert_problem
from tests.helpers.until import until
from tests.service.api.test_model_changes import KEY, form
from tests.service.conftest import NewTables, running
from tests.service.gallery.pictures import blobs

pytestmark = pytest.mark.databases("postgresql")


@dataclass(frozen=True)
class Replica:
    """A running service, which has a data directory of its own."""

    client: httpx.Client
    settings: Settings

    def version(self, name: str) -> str | None:
        """Return the version that it serves; None if it serves none."""
        version: str | None = self.client.get(f"/models/{name}").json().get("version")
        return version

    def marker(self, name: str) -> dict[str, Any]:
        """Return what a model's folder says of the database."""
        marker: dict[str, Any] = json.loads((self.settings.added_models / name / MARKER).read_text())
        return marker

    def is_clean(self) -> bool:
        """Return whether its folder of added models holds nothing but whole models."""
        return all((path / "card.json").exists() for path in self.settings.added_models.iterdir())


@contextmanager
def replica(settings: Settings, data_dir: Path, **changes: object) -> Iterator[Replica]:
    """Run a replica on the settings' database, with `data_dir`."""
    settings = settings.model_copy(update={"data_dir": data_dir, **changes})
    with running(settings) as client:
        client.headers.update(KEY)
        yield Replica(client, settings)


@pytest.fixture(scope="module")
def shared(
    tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory, new_tables: NewTables
) -> Settings:
    """Settings of the module's replicas; each needs another data directory."""
    folder = tmp_path_factory.mktemp("shared")
    return Settings(
        model_dirs=(tiny_models_dir,), default_model="tiny", data_dir=folder,
        database_url=new_tables(folder), api_key=SecretStr("sesame"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(shared: Settings) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas, which the module's tests share."""
    with replica(shared, shared.data_dir / "a") as one, replica(shared, shared.data_dir / "b") as other:
        yield one, other


@pytest.fixture
def name(request: pytest.FixtureRequest, pair: tuple[Replica, Replica]) -> Iterator[str]:
    """A name that no other test uses; a model that has it in the end is deleted."""
    yield (name := request.node.name.removeprefix("test_").partition("[")[0][:50])
    one, other = pair
    one.client.delete(f"/models/{name}")
    until(lambda: other.client.get(f"/models/{name}").status_code == 404, "deleted at both")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three ONNX files."""
    folder = tmp_path_factory.mktemp("made")
    return [(make_tiny_model(folder, f"n{seed}", seed=seed) / "model.onnx").read_bytes() for seed in range(3)]


def add(replica: Replica, name: str, network: bytes) -> str:
    """Add a model, and return its version."""
    response = replica.client.post(f"/models?name={name}", **form(network))
    assert response.status_code == 201, response.text
    return str(response.json()["version"])


def put(replica: Replica, name: str, network: bytes) -> str:
    """Replace a model, and return its new version."""
    response = replica.client.put(f"/models/{name}", **form(network))
    assert response.status_code in (200, 201), response.text
    return str(response.json()["version"])


def taken_up(replica: Replica, name: str, version: str) -> None:
    until(lambda: replica.version(name) == version, "the other replica serves it")


def predictions(replica: Replica, name: str, png: bytes) -> Any:
    response = replica.client.post(f"/classify?model={name}", content=png)
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


@pytest.mark.slow
def test_added_replaced_deleted(
    pair: tuple[Replica, Replica], name: str, networks: list[bytes], png: bytes
) -> None:
    one, other = pair
    version = add(one, name, networks[0])
    taken_up(other, name, version)
    assert predictions(other, name, png) == predictions(one, name, png)
    folders = [each.settings.added_models / name for each in pair]
    assert digest_of_folder(folders[0]) == digest_of_folder(folders[1])
    assert (
        one.marker(name) == other.marker(name) == {"digest": digest_of_folder(folders[0]), "committed": True}
    )
    newer = put(other, name, networks[1])
    assert newer != version
    taken_up(one, name, newer)
    assert predictions(other, name, png) == predictions(one, name, png)
    assert one.client.delete(f"/models/{name}").status_code == 204
    until(lambda: other.client.get(f"/models/{name}").status_code == 404, "deleted at the other too")
    until(lambda: all(each.is_clean() for each in pair), "nothing is left over")
    assert not any(folder.exists() for folder in folders)


@pytest.mark.slow
def test_changes_at_the_other_count_at_once(
    pair: tuple[Replica, Replica], name: str, networks: list[bytes]
) -> None:
    """A client whose requests go to replicas in turn need not wait in between."""
    one, other = pair
    add(one, name, networks[0])
    assert_problem(other.client.post(f"/models?name={name}", **form(networks[1])), 409, "model-exists", name)
    assert other.client.put(f"/models/{name}", **form(networks[1])).status_code == 200
    assert one.client.delete(f"/models/{name}").status_code == 204
    assert other.client.post(f"/models?name={name}", **form(networks[0])).status_code == 201
    assert one.client.delete(f"/models/{name}").status_code == 204
    assert other.client.put(f"/models/{name}", **form(networks[2])).status_code == 201
    assert one.client.put(f"/models/{name}/runtime?runtime=onnxruntime").status_code == 200


@pytest.mark.slow
def test_one_of_two_that_add_a_name_at_once_wins(
    pair: tuple[Replica, Replica], name: str, networks: list[bytes]
) -> None:
    def post(number: int) -> httpx.Response:
        return pair[number].client.post(f"/models?name={name}", **form(networks[number]))

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(post, range(2)))
    won, lost = sorted(answers, key=lambda answer: answer.status_code)
    assert won.status_code == 201, won.text
    assert_problem(lost, 409, "model-exists", f"'{name}'", "PUT /models/")
    for each in pair:
        taken_up(each, name, won.json()["version"])


@pytest.mark.slow
def test_replica_that_was_away_catches_up_before_it_is_ready(
    pair: tuple[Replica, Replica], shared: Settings, name: str, networks: list[bytes], tmp_path: Path
) -> None:
    one, _ = pair
    gone, stays = f"{name}.gone", f"{name}.stays"
    first = [add(one, each, networks[0]) for each in (name, gone, stays)]
    assert one.client.put(f"/models/{stays}/runtime?runtime=onnxruntime").status_code == 200
    with replica(shared, tmp_path / "c") as late:  # `running` asks for nothing but /readyz
        assert [late.version(each) for each in (name, gone, stays)] == first
        assert late.client.get(f"/models/{stays}").json()["runtime"]["origin"] == "request"
    newer = put(one, name, networks[1])
    assert one.client.delete(f"/models/{gone}").status_code == 204
    assert one.client.put(f"/models/{stays}/runtime?runtime=default").status_code == 200
    unchanged = tmp_path / "c/models" / stays / "model.onnx"
    inode = unchanged.stat().st_ino
    with replica(shared, tmp_path / "c") as late:
        assert [late.version(each) for each in (name, gone, stays)] == [newer, None, first[2]]
        assert late.client.get(f"/models/{stays}").json()["runtime"]["origin"] == "setting"
        assert unchanged.stat().st_ino == inode, "what is there already is not written again"
    assert one.client.delete(f"/models/{stays}").status_code == 204


def damage(settings: Settings, sha256: str) -> None:
    """Change a byte of a file in the database."""
    changed = "set_byte(content, 100, 255 - get_byte(content, 100))"
    statement = f"UPDATE shared_model_chunks SET content = {changed} WHERE sha256 = '{sha256}'"
    run_sql(str(settings.database_url), statement)


@pytest.mark.slow
def test_damaged_row_is_refused_by_name(
    pair: tuple[Replica, Replica],
    shared: Settings,
    name: str,
    networks: list[bytes],
    tmp_path: Path,
    png: bytes,
) -> None:
    one, _ = pair
    whole, damaged = f"{name}.whole", add(one, name, networks[0])
    add(one, whole, networks[1])
    damage(shared, damaged)
    with replica(shared, tmp_path / "c") as late:
        broken = {each["model"]: each["reason"] for each in late.client.get("/readyz").json()["broken"]}
        assert f"model '{name}': its file model.onnx in the database is damaged" in broken[name]
        assert damaged[:12] in broken[name]
        assert late.version(name) is None
        assert predictions(late, whole, png) == predictions(one, whole, png)
        assert late.is_clean()
        assert put(one, name, networks[0]) == damaged  # the same file, which mends it
        taken_up(late, name, damaged)
        assert late.client.get("/readyz").json()["broken"] == []
    damage(shared, damaged)
    with replica(shared, tmp_path / "d") as late:
        assert late.version(name) is None
        assert late.client.delete(f"/models/{name}").status_code == 204, "though it was never served here"
        until(lambda: one.version(name) is None, "deleted")
        until(lambda: late.client.get("/readyz").json()["broken"] == [], "it is not missed any more")
    assert one.client.delete(f"/models/{whole}").status_code == 204


@pytest.mark.slow
def test_own_folder_of_a_machine_comes_first(
    pair: tuple[Replica, Replica], name: str, networks: list[bytes], tmp_path: Path
) -> None:
    one, other = pair
    make_tiny_model(tmp_path, name, seed=7)
    own = other.settings.added_models / name
    own.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).rename(own)
    version = read_card(own).file.sha256
    taken_up(other, name, version)
    assert one.client.get(f"/models/{name}").status_code == 404, "it stays on its machine"
    added = add(one, name, networks[0])
    until(lambda: other.client.get(f"/models/{name}").json()["refused"] is not None, "it says so")
    assert "this machine's own folder comes first" in other.client.get(f"/models/{name}").json()["refused"]
    assert other.version(name) == version
    assert [each["model"] for each in other.client.get("/readyz").json()["refused"]] == [name]
    own.rename(tmp_path / "away")
    taken_up(other, name, added)
    assert other.client.get(f"/models/{name}").json()["refused"] is None


@pytest.mark.slow
def test_own_folder_outlives_a_deletion_elsewhere(
    pair: tuple[Replica, Replica], name: str, networks: list[bytes], tmp_path: Path
) -> None:
    one, other = pair
    add(one, name, networks[0])
    taken_up(other, name, str(one.version(name)))
    folder = other.settings.added_models / name
    shutil.rmtree(folder)
    make_tiny_model(tmp_path, name, seed=8)
    (tmp_path / name).rename(folder)
    version = read_card(folder).file.sha256
    taken_up(other, name, version)
    assert one.client.delete(f"/models/{name}").status_code == 204
    assert_problem(one.client.get(f"/models/{name}"), 404, "unknown-model")
    assert_problem(other.client.delete("/models/none"), 404, "unknown-model")  # looks at the database first
    assert other.version(name) == version
    assert other.client.delete(f"/models/{name}").status_code == 204, "its own replica may delete it"
    assert not folder.exists()


@pytest.mark.slow
def test_runtime_is_chosen_for_all(pair: tuple[Replica, Replica]) -> None:
    def origin(replica: Replica) -> str:
        return str(replica.client.get("/models/tiny-b").json()["runtime"]["origin"])

    one, other = pair
    assert one.client.put("/models/tiny-b/runtime?runtime=onnxruntime").status_code == 200
    until(lambda: origin(other) == "request", "chosen at the other")
    assert other.client.put("/models/tiny-b/runtime?runtime=default").status_code == 200
    until(lambda: origin(one) == "setting", "taken back at the other")


LEFT: dict[str, dict[str, Any] | None] = {
    "killed after the commit": {"committed": False},
    "killed before the commit": {"digest": "0" * 64, "committed": False},
    "marker lost": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEFT)
def test_folders_that_kills_leave(
    kind: str,
    pair: tuple[Replica, Replica],
    shared: Settings,
    networks: list[bytes],
    name: str,
    tmp_path: Path,
) -> None:
    one, _ = pair
    version = add(one, name, networks[0])
    shutil.copytree(one.settings.added_models / name, tmp_path / "c/models" / name)
    new = make_tiny_model(tmp_path / "c/models", f"{name}.new", seed=9)
    (new / MARKER).write_text(json.dumps({"digest": digest_of_folder(new), "committed": False}))
    left = LEFT[kind]
    marker = tmp_path / "c/models" / name / MARKER
    marker.unlink() if left is None else marker.write_text(json.dumps(one.marker(name) | left))
    with replica(shared, tmp_path / "c") as late:
        assert late.version(name) == version
        assert late.marker(name) == one.marker(name)
        assert not new.exists(), "it was never committed"


def test_folder_of_another_database_stays(
    pair: tuple[Replica, Replica], shared: Settings, tmp_path: Path
) -> None:
    folder = make_tiny_model(tmp_path / "c/models", "elsewhere", seed=9)
    (folder / MARKER).write_text(json.dumps({"digest": digest_of_folder(folder), "committed": True}))
    with replica(shared, tmp_path / "c") as late:
        assert late.version("elsewhere") == read_card(folder).file.sha256
        assert late.client.get("/models/elsewhere").json()["refused"] is None
        assert pair[0].client.get("/models/elsewhere").status_code == 404


@pytest.mark.slow
def test_services_on_one_data_directory(
    pair: tuple[Replica, Replica], shared: Settings, name: str, networks: list[bytes]
) -> None:
    one, other = pair
    with replica(shared, one.settings.data_dir) as twin:
        add(one, name, networks[0])
        assert twin.client.put(f"/models/{name}/runtime?runtime=default").status_code == 200
        assert twin.client.delete(f"/models/{name}").status_code == 204, "without waiting in between"
        version = add(twin, name, networks[0])
        for each in (one, other):
            taken_up(each, name, version)
        for seed in (1, 2, 0, 1):
            version = put((one, twin)[seed % 2], name, networks[seed])
        for each in (one, twin, other):
            taken_up(each, name, version)
        assert one.marker(name) == other.marker(name)
        assert one.client.delete(f"/models/{name}").status_code == 204
        for each in (twin, other):
            until(lambda each=each: each.client.get(f"/models/{name}").status_code == 404, "deleted")
        assert twin.is_clean()


def best(replica: Replica, seed: int) -> tuple[str, str, float]:
    """Return model, best match and its score of a search in the gallery."""
    response = replica.client.post("/retrieve-similar?k=1", content=blobs(seed))
    assert response.status_code == 200, response.text
    match = response.json()["matches"][0]
    return response.json()["model"], match["id"], match["score"]


@pytest.mark.slow
def test_gallery_of_an_own_model(
    shared: Settings, new_tables: NewTables, networks: list[bytes], tmp_path: Path
) -> None:
    """Each replica embeds with the network that the gallery has, whether or not it has ever served it."""
    settings = shared.model_copy(update={"database_url": new_tables(tmp_path), "gallery_model": "mine"})
    with replica(settings, tmp_path / "a") as one, replica(settings, tmp_path / "b") as other:
        taken_up(other, "mine", add(one, "mine", networks[0]))
        for seed in range(4):
            assert one.client.put(f"/gallery/images/i{seed}", content=blobs(seed)).status_code == 201
        newer = put(one, "mine", networks[1])
        taken_up(other, "mine", newer)
        assert best(one, 3) == best(other, 3) == ("mine", "i3", 1.0)
        with replica(settings, tmp_path / "c") as late:
            assert late.version("mine") == newer
            assert late.client.put("/gallery/images/i4", content=blobs(4)).status_code == 201
            assert best(late, 2) == ("mine", "i2", 1.0)
        add(one, "yours", networks[2])
        assert one.client.post("/gallery/reindex?model=yours").status_code == 202
        until(lambda: other.client.get("/gallery").json()["reindexing"] is None, "re-indexed")
        for each in (one, other):
            assert best(each, 4) == ("yours", "i4", 1.0)
            assert_problem(each.client.delete("/models/yours"), 409, "model-in-use", "gallery")
            assert each.client.delete("/models/mine").status_code == (204 if each is one else 404)


@pytest.mark.slow
def test_gallery_from_before_copies_were_stored(
    shared: Settings,
    new_tables: NewTables,
    networks: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its network was replaced then, and the database refuses the copy at first."""
    monkeypatch.setattr(gallery_networks, "_RETRY_S", 0.05)
    settings = shared.model_copy(update={"database_url": new_tables(tmp_path), "gallery_model": "mine"})
    with replica(settings, tmp_path / "a") as one:
        add(one, "mine", networks[0])
        assert one.client.put("/gallery/images/i1", content=blobs(1)).status_code == 201
        put(one, "mine", networks[1])
    url = str(settings.database_url)
    run_sql(url, "DELETE FROM shared_model_files WHERE kind = 'copy'")
    run_sql(url, "DELETE FROM shared_models WHERE kind = 'copy'")
    run_sql(url, "ALTER TABLE shared_model_chunks RENAME TO elsewhere")
    with replica(settings, tmp_path / "a") as one:
        assert best(one, 1) == ("mine", "i1", 1.0)
        run_sql(url, "ALTER TABLE elsewhere RENAME TO shared_model_chunks")
        engine = open_database(url, tmp_path)
        until(lambda: any(row.kind == "copy" for row in ModelStore(engine).all()), "the copy is stored")
        engine.dispose()
    with replica(settings, tmp_path / "c") as late:
        assert best(late, 1) == ("mine", "i1", 1.0)


@pytest.mark.slow
def test_gallery_whose_data_directory_cannot_be_written(
    shared: Settings, new_tables: NewTables, networks: list[bytes], tmp_path: Path
) -> None:
    settings = shared.model_copy(update={"database_url": new_tables(tmp_path), "gallery_model": "mine"})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / KEPT_FOLDER).write_text("in the way")
    with replica(settings, tmp_path / "a") as one:
        add(one, "mine", networks[0])
        assert one.client.put("/gallery/images/i1", content=blobs(1)).status_code == 201
        put(one, "mine", networks[1])
    with replica(settings, tmp_path / "c") as late:
        assert best(late, 1) == ("mine", "i1", 1.0)


@pytest.fixture
def models(new_tables: NewTables, tmp_path: Path) -> Iterator[ModelStore]:
    """A store whose database no service uses."""
    engine = open_database(new_tables(tmp_path / "none"), tmp_path)
    yield ModelStore(engine)
    engine.dispose()


def rows(models: ModelStore, table: str) -> int:
    with models._reading() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


def test_files_are_stored_once_and_in_chunks(
    models: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHUNK_BYTES", 1000)
    folder = tmp_path / "mine"
    folder.mkdir()
    for file, content in (("weights.bin", b"w" * 2500), ("exact.bin", b"e" * 2000), ("empty.txt", b"")):
        (folder / file).write_bytes(content)
    (folder / MARKER).write_text("{}")
    assert models.latest() == 0
    digest = models.put("mine", folder, replace=False)
    models.save_copy("mine@0123456789ab", folder)
    assert (rows(models, "shared_model_files"), rows(models, "shared_model_chunks")) == (6, 3 + 2 + 1)
    (fetched := tmp_path / "fetched").mkdir()
    assert models.fetch("model", "mine", fetched) == digest == digest_of_folder(fetched)
    assert (fetched / "weights.bin").read_bytes() == b"w" * 2500
    models.remove("mine")
    assert models.fetch("model", "mine", tmp_path) is None
    assert rows(models, "shared_model_chunks") == 6, "the copy needs them"
    models.drop_copies(["mine@0123456789ab"])
    models.drop_copies([])
    assert rows(models, "shared_model_chunks") == 6, "it is younger than an hour"
    with models._changing() as connection:
        connection.exec_driver_sql("UPDATE shared_models SET stored_ms = stored_ms - 3600001")
    models.drop_copies(["mine@0123456789ab"])
    assert rows(models, "shared_model_chunks") == 6
    latest = models.latest()
    models.drop_copies([])
    assert (rows(models, "shared_model_files"), rows(models, "shared_model_chunks")) == (0, 0)
    deleted = [("mine", None), ("mine@0123456789ab", None)]
    assert [(row.name, row.digest) for row in models.all()] == deleted, "the deletions stay"
    models.choose_runtime("mine", None)
    assert models.latest() == latest + 2, "no number is used twice"
    assert not models.fetch_copy("mine@0123456789ab", tmp_path)
    models.save_copy("mine@0123456789ab", folder)
    assert models.fetch_copy("mine@0123456789ab", tmp_path)


@pytest.mark.slow
def test_one_chunk_is_held_at_a_time(
    models: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHUNK_BYTES", 100_000)
    (folder := tmp_path / "mine").mkdir()
    (fetched := tmp_path / "fetched").mkdir()
    for number in range(2):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 4_000_000)
    models.latest()  # imports and caches what the first query needs
    tracemalloc.start()
    try:
        models.put("mine", folder, replace=False)
        models.fetch("model", "mine", fetched)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000
    assert digest_of_folder(fetched) == digest_of_folder(folder)


def test_look_without_news_is_one_query(models: ModelStore, tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "zoo", "tiny")
    shared = SharedModels(Registry([tmp_path / "zoo"], "tiny", added=tmp_path / "models"), models)
    models.choose_runtime("tiny", None)
    shared.look()
    statements: list[str] = []
    event.listen(models._engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    for _ in range(3):
        shared.look()
    assert statements == ["SELECT max(shared_models.sequence) AS max_1 \nFROM shared_models"] * 3
    assert shared.problem is None
    assert not (tmp_path / "models").exists(), "nothing is written"


@contextmanager
def cut_when(models: ModelStore, table: str) -> Iterator[None]:
    """Context in which the server ends each connection that is about to read or write a table."""
    url = models._engine.url.render_as_string(hide_password=False)

    def cut(connection: Connection, _: object, statement: str, *__: object) -> None:
        if table in statement:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            run_sql(url, f"SELECT pg_terminate_backend({pid})")

    event.listen(models._engine, "before_cursor_execute", cut)
    try:
        yield
    finally:
        event.remove(models._engine, "before_cursor_execute", cut)


def test_model_whose_second_attempt_breaks_off_is_taken_up(models: ModelStore, tmp_path: Path) -> None:
    models.put("mine", make_tiny_model(tmp_path / "made", "mine"), replace=False)
    added = tmp_path / "data/models"
    added.parent.mkdir()
    added.write_text("in the way")
    make_tiny_model(tmp_path / "zoo", "tiny")
    registry = Registry([tmp_path / "zoo"], "tiny", added=added)
    shared = SharedModels(registry, models)
    shared.look()
    assert "model 'mine' of another replica: the folder of models cannot be written" in str(shared.problem)
    added.unlink()
    with cut_when(models, "shared_model_chunks"), pytest.raises(DatabaseUnreachable):
        shared.catch_up(again=True)
    shared.look()
    assert shared.problem is None
    assert registry.get("mine").name == "mine"


def test_model_that_fails_here_does_not_reach_this_process(models: ModelStore, tmp_path: Path) -> None:
    """A child process tries it first, as at the replica that it was added at."""
    models.put("mine", make_tiny_model(tmp_path / "made", "mine", seed=1), replace=False)
    make_tiny_model(tmp_path / "zoo", "tiny")
    registry = Registry([tmp_path / "zoo"], "tiny", added=tmp_path / "models")
    shared = SharedModels(registry, models, bounds=Bounds(memory_bytes=1 << 24))
    shared.look()
    refused = r"model 'mine' of another replica cannot be served here: it needs more than [\d.]+ GiB of mem"
    assert re.match(refused, shared.refusals["mine"]), shared.refusals
    assert "mine" not in registry.names()
    assert list((tmp_path / "models").iterdir()) == []
    with cut_when(models, "shared_model_chunks"):
        shared.catch_up(again=True)  # the same file is not tried again at once
    assert shared.problem is None
    models.put("mine", make_tiny_model(tmp_path / "again", "mine", seed=2), replace=True)
    SharedModels(registry, models).look()
    assert registry.get("mine").name == "mine"


def test_requests_that_wait_for_other_changes_share_a_thread(
    models: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_changer, "CATCH_UP_WITHIN_S", 0.1)
    make_tiny_model(tmp_path / "zoo", "tiny")
    registry = Registry([tmp_path / "zoo"], "tiny", added=tmp_path / "models")
    registry.load()
    models.choose_runtime("tiny", None)

    async def no_models() -> Collection[str]:
        return ()

    async def requests() -> None:
        changer = ModelChanger(registry, no_models, SharedModels(registry, models))
        with models._engine.begin() as connection:
            connection.exec_driver_sql("LOCK TABLE shared_models IN ACCESS EXCLUSIVE MODE")
            waiting = asyncio.gather(*(changer.catch_up() for _ in range(40)), return_exceptions=True)
            answers = await asyncio.wait_for(waiting, 10)
            assert {type(answer) for answer in answers} == {Busy}
            assert "changes of other replicas are being taken up" in str(answers[0])
            await asyncio.wait_for(asyncio.to_thread(bool), 10)  # other work still finds a thread
        monkeypatch.setattr(model_changer, "CATCH_UP_WITHIN_S", 60)
        models.put("mine", make_tiny_model(tmp_path / "made", "mine"), replace=False)
        await changer.catch_up()
        assert registry.get("mine").name == "mine"

    asyncio.run(requests())


def test_deleted_model_is_removed_before_it_is_loaded(models: ModelStore, tmp_path: Path) -> None:
    """If loading it ends the process, deleting it at another replica is the cure."""
    make_tiny_model(tmp_path / "zoo", "tiny")
    added = tmp_path / "models"
    for name in ("gone", "stays"):
        models.put(name, make_tiny_model(tmp_path / "made", name), replace=False)
    SharedModels(Registry([tmp_path / "zoo"], "tiny", added=added), models).look()
    models.remove("gone")
    registry = Registry([tmp_path / "zoo"], "tiny", added=added)
    assert registry.names() == ("gone", "stays", "tiny")
    registry.start_loading(unless=is_shared)
    loading = [future.result().name for future in registry._loading]
    assert loading == ["tiny"], "the database is asked first"
    shared = SharedModels(registry, models)
    registry.load(shared.look_at_start, shared.correct)
    assert [model.name for model in registry.loaded] == ["stays", "tiny"]


def test_look_ends_when_the_service_stops(models: ModelStore, tmp_path: Path) -> None:
    models.put("mine", make_tiny_model(tmp_path / "made", "mine"), replace=False)
    make_tiny_model(tmp_path / "zoo", "tiny")
    shared = SharedModels(Registry([tmp_path / "zoo"], "tiny", added=tmp_path / "models"), models)
    shared.stop()
    with pytest.raises(NotReady, match="stopping"):
        shared.catch_up()
    shared.look_at_start()
    assert not (tmp_path / "models").exists()


def test_numbers_grow_in_the_order_of_commits(models: ModelStore) -> None:
    def change(number: int) -> None:
        models.choose_runtime(f"m{number % 4}", json.dumps(number))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(change, range(20)))
    assert models.latest() == 20
    assert len({row.sequence for row in models.all()}) == len(models.all()) == 4


def test_row_that_names_another_folder_is_refused(models: ModelStore, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"w")
    models.put("mine", folder, replace=False)
    with models._changing() as connection:
        connection.exec_driver_sql("UPDATE shared_model_files SET file = '../weights.bin'")
    with pytest.raises(ModelUnavailable, match="list of files in the database is damaged"):
        models.fetch("model", "mine", tmp_path)
    with models._changing() as connection:
        digest = store.digest_of(store._files(connection, "model", "mine"))
        connection.exec_driver_sql(f"UPDATE shared_models SET digest = '{digest}'")
    with pytest.raises(ModelUnavailable, match=r"'\.\./weights\.bin' in the database is no file name"):
        models.fetch("model", "mine", folder)
    assert not (tmp_path / "weights.bin").exists()


def test_replica_that_holds_the_lock_too_long_is_not_waited_for(
    models: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_LOCK_WAIT_S", 0.1)
    with models._changing(), pytest.raises(DatabaseUnreachable, match="conflicting change"):
        models.choose_runtime("mine", None)
    models.choose_runtime("mine", None)
