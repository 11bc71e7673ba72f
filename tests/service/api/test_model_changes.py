"""POST, PUT and DELETE of /models: a model comes as a form, is served, replaced and deleted."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from pydantic import SecretStr

from service.errors import RefusedModel
from service.own_models.sources.labels import BuiltIn, labels_option
from service.settings import Settings
from service.storage.database import FILE_NAME
from tests.conftest import make_tiny_model
from tests.helpers.http_client import http_client
from tests.helpers.problems import assert_problem
from tests.helpers.swap import swap_under_load, versioned_model
from tests.helpers.until import until
from tests.service.conftest import NewTables, running
from tests.service.gallery.pictures import blobs

KEY = {"Authorization": "Bearer sesame"}
LABELS = "".join(f"thing {number}\n" for number in range(10))
CARD = {"input": {"mean": [127, 127, 127], "std": [128, 128, 128]}, "source": {"licence": "MIT"}}


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    """An ONNX file."""
    return (make_tiny_model(tmp_path / "made", "one", seed=1) / "model.onnx").read_bytes()


@pytest.fixture
def other(tmp_path: Path) -> bytes:
    """Another ONNX file with as many classes."""
    return (make_tiny_model(tmp_path / "made", "other", seed=2) / "model.onnx").read_bytes()


@pytest.fixture
def unserved(tiny_settings: Settings) -> Settings:
    """Settings with a key, which no service uses yet."""
    return tiny_settings.model_copy(update={"api_key": SecretStr("sesame")})


@pytest.fixture(scope="module")
def keyed(tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory, new_tables: NewTables) -> Settings:
    """Settings with a key, of the service that the module's tests share."""
    data_dir = tmp_path_factory.mktemp("data")
    return Settings(
        model_dirs=(tiny_models_dir,), default_model="tiny", data_dir=data_dir,
        database_url=new_tables(data_dir), api_key=SecretStr("sesame"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def url(keyed: Settings) -> Iterator[httpx.URL]:
    """The URL of the service that the module's tests share."""
    with running(keyed) as client:
        yield client.base_url


@pytest.fixture
def client(url: httpx.URL, keyed: Settings) -> Iterator[httpx.Client]:
    """A client that sends the key; no model has been added yet, and those that are added are deleted."""
    with http_client(url) as one:
        one.headers.update(KEY)
        yield one
    with http_client(url) as one:
        for name in {model["name"] for model in one.get("/models").json()["models"]} - {"tiny", "tiny-b"}:
            assert one.delete(f"/models/{name}", headers=KEY).status_code == 204
    assert not keyed.added_models.exists() or list(keyed.added_models.iterdir()) == []


def form(model: bytes, name: str = "net.onnx", **parts: Any) -> dict[str, Any]:
    files = {"model": (name, model), "labels": ("labels.txt", LABELS.encode()), **parts}
    return {"files": {key: part for key, part in files.items() if part is not None}}


def left_over(settings: Settings) -> list[str]:
    """What is in the folder of added models and is no model."""
    folder = settings.added_models
    return (
        sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) if folder.exists() else []
    )


def test_an_added_model_is_served_when_the_answer_comes(
    client: httpx.Client, keyed: Settings, model: bytes, png: bytes
) -> None:
    response = client.post("/models", **form(model, card=(None, json.dumps(CARD))))
    assert response.status_code == 201, response.text
    assert response.headers["Location"] == "/models/net"
    body = response.json()
    assert (body["name"], body["loaded"], body["reason"], body["refused"]) == ("net", True, None, None)
    assert body["version"] == body["card"]["file"]["sha256"]
    assert body["card"]["source"]["licence"] == "MIT"
    origins = {path: fact["origin"] for path, fact in body["card"]["provenance"].items()}
    assert origins["input.layout"] == "file"
    assert origins["input.mean"] == origins["labels"] == "flag"
    assert origins["input.interpolation"] == "assumed"
    assert "input.interpolation" in body["assumed"]
    assert any("interpolation" in line for line in body["warnings"])
    assert client.get("/models/net").json() == {
        k: v for k, v in body.items() if k not in ("changes", "warnings")
    }
    answer = client.post("/classify?model=net&top_k=1", content=png).json()
    assert answer["predictions"][0]["label"].startswith("thing ")
    assert (keyed.added_models / "net/card.json").exists()
    assert left_over(keyed) == []


@pytest.mark.slow
def test_with_sqlite_a_model_is_in_its_folder_only(unserved: Settings, model: bytes) -> None:
    with running(unserved) as client:
        assert client.post("/models?name=mine", headers=KEY, **form(model)).status_code == 201
        assert client.put("/models/mine/runtime?runtime=onnxruntime", headers=KEY).status_code == 200
    files = {path.name for path in (unserved.added_models / "mine").iterdir()}
    assert files == {"model.onnx", "card.json", "labels.txt", "classifier.npz"}
    assert not unserved.added_models.with_suffix(".lock").exists()
    with closing(sqlite3.connect(unserved.data_dir / FILE_NAME)) as database:
        for table in ("shared_models", "shared_model_files", "shared_model_chunks"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.slow
def test_an_added_model_is_there_after_a_restart(unserved: Settings, model: bytes) -> None:
    with running(unserved) as client:
        assert client.post("/models?name=mine", headers=KEY, **form(model)).status_code == 201
    with running(unserved) as client:
        assert client.get("/models/mine").json()["loaded"] is True


@pytest.mark.slow
def test_a_put_adds_and_replaces(client: httpx.Client, model: bytes, other: bytes, png: bytes) -> None:
    first = client.put("/models/mine", **form(model))
    assert (first.status_code, first.headers["Location"]) == (201, "/models/mine")
    again = client.put("/models/mine", **form(other))
    assert again.status_code == 200, again.text
    assert again.json()["version"] != first.json()["version"]
    assert client.get("/models/mine").json()["version"] == again.json()["version"]
    assert client.post("/classify?model=mine", content=png).status_code == 200


@pytest.mark.slow
def test_a_delete_ends_a_model(client: httpx.Client, keyed: Settings, model: bytes, png: bytes) -> None:
    client.put("/models/mine", **form(model))
    response = client.delete("/models/mine")
    assert (response.status_code, response.content) == (204, b"")
    assert_problem(client.post("/classify?model=mine", content=png), 404, "unknown-model", "'mine'")
    assert_problem(client.delete("/models/mine"), 404, "unknown-model", "'mine'")
    assert list(keyed.added_models.iterdir()) == []


CHANGES: dict[str, Callable[[httpx.Client, bytes], httpx.Response]] = {
    "post": lambda client, model: client.post("/models", **form(model)),
    "put": lambda client, model: client.put("/models/tiny", **form(model)),
    "delete": lambda client, _: client.delete("/models/tiny"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_without_a_key_set_nothing_may_be_changed(
    change: Callable[[httpx.Client, bytes], httpx.Response], serve: Callable[..., httpx.Client], model: bytes
) -> None:
    client = serve()
    assert_problem(change(client, model), 403, "no-key-set", "WEIGHIN_API_KEY", "weighin add")
    client.headers.update(KEY)
    assert_problem(change(client, model), 403, "no-key-set")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_without_the_key_sent_nothing_may_be_changed(
    change: Callable[[httpx.Client, bytes], httpx.Response], client: httpx.Client, model: bytes
) -> None:
    del client.headers["Authorization"]
    assert_problem(change(client, model), 401, "unauthorized", "Bearer")
    client.headers["Authorization"] = "Bearer other"
    assert_problem(change(client, model), 401, "unauthorized", "API key: wrong")
    client.headers["Authorization"] = KEY["Authorization"]
    client.headers["Origin"] = "https://evil.example"
    assert_problem(change(client, model), 403, "cross-site-request")


def test_names_that_are_taken(client: httpx.Client, keyed: Settings, model: bytes) -> None:
    assert_problem(client.post("/models?name=tiny", **form(model)), 409, "model-exists", "PUT /models/tiny")
    assert client.post("/models?name=mine", **form(model)).status_code == 201
    assert_problem(client.post("/models", **form(model, "mine.onnx")), 409, "model-exists", "'mine'")
    assert_problem(client.post("/models", **form(model, "tiny.onnx")), 409, "model-exists", "'tiny'")
    assert [path.name for path in keyed.added_models.iterdir()] == ["mine"]


def test_models_of_other_folders_stay(client: httpx.Client, model: bytes, tiny_models_dir: Path) -> None:
    before = sorted(path.name for path in tiny_models_dir.rglob("*"))
    for response in (client.put("/models/tiny-b", **form(model)), client.delete("/models/tiny-b")):
        assert_problem(response, 409, "model-in-use", "'tiny-b'", "WEIGHIN_MODEL_DIRS")
    assert sorted(path.name for path in tiny_models_dir.rglob("*")) == before


@pytest.mark.slow
def test_the_default_model_and_that_of_the_gallery_stay(
    unserved: Settings, model: bytes, other: bytes
) -> None:
    with running(unserved) as client:
        client.headers.update(KEY)
        for name in ("first", "second"):
            assert client.put(f"/models/{name}", **form(model)).status_code == 201
    with running(unserved.model_copy(update={"default_model": "first", "gallery_model": "second"})) as client:
        client.headers.update(KEY)
        assert_problem(client.delete("/models/first"), 409, "model-in-use", "WEIGHIN_DEFAULT_MODEL")
        assert client.put("/models/first", **form(other)).status_code == 200
        assert client.put("/gallery/images/a", content=blobs(0)).status_code == 201
        assert_problem(client.delete("/models/second"), 409, "model-in-use", "/gallery/reindex")
        assert client.put("/models/second", **form(other)).status_code == 200
        assert client.get("/gallery").json()["replaced"] is True
        client.post("/gallery/reindex?model=tiny")
        until(lambda: client.get("/gallery").json()["model"] == "tiny", "re-indexed")
        assert client.delete("/models/second").status_code == 204


REFUSALS: dict[str, tuple[dict[str, Any], int, str, tuple[str, ...]]] = {
    "no form": ({"content": b"x"}, 400, "malformed-request", ("'model'",)),
    "no model": ({"files": {"labels": ("l.txt", b"a")}}, 400, "malformed-request", ("'model'", "'labels'")),
    "a field": ({"files": {"model": (None, b"text")}}, 422, "invalid-parameter", ("'model'", "no file")),
    "unknown field": ({"files": {"weights": ("w", b"x")}}, 422, "invalid-parameter", ("'weights'", "card")),
    "nothing": ({"files": {"model": ("net.onnx", b"")}}, 422, "refused-model", ("net.onnx",)),
    "a page": (
        {"files": {"model": ("net.onnx", b"<!doctype html><p>404</p>")}}, 422, "refused-model", ("HTML",)
    ),
    "no name": ({"files": {"model": ("model.onnx", b"x")}}, 422, "invalid-parameter", ("?name=NAME",)),
    "hidden name": ({"files": {"model": ("../.onnx", b"x")}}, 422, "invalid-parameter", ("?name=NAME",)),
    "data name": (
        {"files": {"model": ("a.onnx", b"x"), "data": ("a b", b"x")}}, 422, "invalid-parameter", ("'a b'",)
    ),
    "data outside": (
        {"files": {"model": ("a.onnx", b"x"), "data": ("w/../../b", b"x")}},
        422,
        "invalid-parameter",
        ("'w/../../b'",),
    ),
    "data in the file": (
        {"files": {"model": ("a.onnx", b"x"), "data": ("a.onnx/b", b"x")}},
        422,
        "invalid-parameter",
        ("both",),
    ),
    "one name": (
        {"files": {"model": ("a.onnx", b"x"), "data": ("a.onnx", b"x")}}, 422, "invalid-parameter", ("both",)
    ),
    "card is no JSON": (
        {"files": {"model": ("a.onnx", b"x"), "card": (None, b"{")}}, 422, "invalid-parameter", ("JSON",)
    ),
    "card is no object": (
        {"files": {"model": ("a.onnx", b"x"), "card": (None, b"[]")}}, 422, "invalid-parameter", ("object",)
    ),
    "card misspelt": (
        {"files": {"model": ("a.onnx", b"x"), "card": (None, b'{"input": {"lay": 1}}')}},
        422,
        "invalid-parameter",
        ("input.lay", "layout"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_is_no_model_leaves_nothing(kind: str, client: httpx.Client, keyed: Settings) -> None:
    request, status, slug, words = REFUSALS[kind]
    names = client.get("/models").json()
    assert_problem(client.post("/models", **request), status, slug, *words)
    assert client.get("/models").json() == names
    assert not keyed.added_models.exists() or list(keyed.added_models.iterdir()) == []


SECRETS = (
    "{folder}/secret.txt",
    "secret.txt",
    "../secret.txt",
    "./imagenet-1k",
    "secret.txt\0",
    "imagenet-1k\0",
)


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("part", ["labels", "card"])
def test_text_never_names_a_file_of_the_server(
    part: str,
    text: str,
    client: httpx.Client,
    keyed: Settings,
    model: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "cwd" / "inner"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent):
        (place / "secret.txt").write_text(LABELS.replace("thing", "secret"))
    (folder / "imagenet-1k").write_text(LABELS.replace("thing", "secret"))
    monkeypatch.chdir(folder)
    named = text.format(folder=folder)
    parts = {
        "labels": {"labels": (None, named)},
        "card": {"labels": None, "card": (None, json.dumps({"labels": named}))},
    }
    response = client.post("/models", **form(model, **parts[part]))
    assert_problem(response, 422, "invalid-parameter", "no label set", "imagenet-1k")
    assert "secret 0" not in response.text
    assert not keyed.added_models.exists() or list(keyed.added_models.iterdir()) == []


def test_a_built_in_set_is_not_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet-1k").write_text("secret 0\n")
    assert labels_option(BuiltIn("imagenet-1k")).names[0] == "tench"
    for name in (str(tmp_path / "imagenet-1k"), "./imagenet-1k", "imagenet-1k\0"):
        with pytest.raises(RefusedModel, match="no such label set"):
            labels_option(BuiltIn(name))


VALUES: dict[str, tuple[Any, str]] = {
    "number for a list": ({"input": {"mean": 5}}, "input.mean"),
    "object for text": ({"input": {"fitting": {}}}, "input.fitting"),
    "text for a number": ({"input": {"batch": "x"}}, "input.batch"),
    "number as text": ({"input": {"height": "16"}}, "input.height"),
    "no number": ({"input": {"mean": [float("nan")] * 3}}, "input.mean"),
    "negative": ({"input": {"std": [1, -1, 1]}}, "input.std"),
    "a list of lists": ({"input": {"mean": [[1], [2], [3]]}}, "input.mean"),
    "a list for text": ({"architecture": ["x"]}, "architecture"),
    "a number for text": ({"source": {"weights": 5}}, "source.weights"),
    "too many": ({"parameters": 10**30}, "parameters"),
    "unknown activation": ({"outputs": {"activation": "relu"}}, "outputs.activation"),
    "an offset of 2": ({"outputs": {"class_offset": 2}}, "outputs.class_offset"),
    "names are no object": ({"outputs": {"names": 5}}, "outputs.names"),
    "a name is no text": ({"outputs": {"names": {"logits": [1]}}}, "outputs.names"),
    "half a character": ({"input": {"name": "\ud800"}}, "input.name"),
    "a label set is no name": ({"labels": "../x"}, "labels"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_that_no_card_has_is_refused(kind: str, client: httpx.Client, model: bytes) -> None:
    card, path = VALUES[kind]
    response = client.post("/models", **form(model, card=(None, json.dumps(card))))
    assert_problem(response, 422, "invalid-parameter", "'card'", path)


def test_a_card_nested_deep_is_refused(client: httpx.Client, model: bytes) -> None:
    for text in ("[" * 100_000, '{"input":' * 100_000, '{"input": {"mean": ' + "[" * 500 + "]" * 500 + "}}"):
        response = client.post("/models", **form(model, card=(None, text)))
        assert_problem(response, 422, "invalid-parameter", "'card'")


ANSWERS: dict[str, tuple[str, Any, str]] = {
    "preset": ("?preset=x", {}, "preset 'x'"),
    "name": ("?name=.x", {}, "name '.x'"),
    "layout": ("", {"input": {"layout": "nhwc"}}, "card.input.layout"),
    "mean alone": ("", {"input": {"mean": [1]}}, "card.input.mean"),
    "output": ("", {"outputs": {"names": {"logits": "x"}}}, "card.outputs.names.logits"),
    "resize": ("", {"input": {"fitting": "stretch", "resize": 300}}, "card.input.resize"),
    "label set": ("", {"labels": "imagenet-1k"}, "card.labels"),
    "background": ("", {"outputs": {"class_offset": 1}}, "the part labels"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_refusal_names_the_field_of_the_form(kind: str, client: httpx.Client, model: bytes) -> None:
    query, card, words = ANSWERS[kind]
    response = client.post(f"/models{query}", **form(model, card=(None, json.dumps(card))))
    assert_problem(response, 422, "refused-model", words)
    assert "--" not in response.json()["detail"]


def test_the_warnings_name_the_fields_of_the_form(client: httpx.Client, model: bytes) -> None:
    answer = client.post("/models", **form(model)).json()
    assert any("(card.input.interpolation)" in warning for warning in answer["warnings"])
    assert not any("--" in warning for warning in answer["warnings"])


def test_the_card_names_the_fields_of_the_form(client: httpx.Client, model: bytes) -> None:
    card = {"input": {"colour_order": "bgr"}}
    path = "/models?name=mine&preset=torchvision"
    answer = client.post(path, **form(model, card=(None, json.dumps(card)))).json()
    provenance = answer["card"]["provenance"]
    assert provenance["input.colour_order"]["detail"] == "card.input.colour_order"
    assert provenance["input.mean"]["detail"] == "preset torchvision"
    assert client.get("/models/mine").json()["card"]["provenance"] == provenance
    assert "--" not in json.dumps(provenance)


@pytest.mark.parametrize("name", ["given", "labels", "labels.txt", "model"])
def test_a_model_part_may_have_any_name(name: str, client: httpx.Client, model: bytes) -> None:
    response = client.post("/models?name=mine", **form(model, name))
    assert response.status_code == 201, response.text


@pytest.mark.parametrize("field", ["images", "mapping", "to", "label_set", "preset", "file"])
def test_a_card_names_no_option_of_the_command(field: str, client: httpx.Client, model: bytes) -> None:
    card = json.dumps({field: "/etc"})
    response = client.post("/models", **form(model, card=(None, card)))
    if field == "file":  # a field of cards that the file itself decides
        assert response.status_code == 201
        assert response.json()["card"]["file"]["name"] == "model.onnx"
    else:
        assert_problem(response, 422, "invalid-parameter", f"unknown '{field}'")


def test_a_refused_replacement_leaves_the_old_one(client: httpx.Client, model: bytes, png: bytes) -> None:
    before = client.put("/models/mine", **form(model)).json()["version"]
    assert_problem(
        client.put("/models/mine", **form(model[: len(model) // 2])), 422, "refused-model", "cut off"
    )
    answer = client.get("/models/mine").json()
    assert (answer["version"], answer["loaded"], answer["refused"]) == (before, True, None)
    assert client.post("/classify?model=mine", content=png).status_code == 200


def test_a_body_over_the_limit_is_cut_off(unserved: Settings, model: bytes) -> None:
    with running(unserved.model_copy(update={"max_model_bytes": 10_000})) as client:
        client.headers.update(KEY)
        assert_problem(client.post("/models", **form(model + b"\0" * 20_000)), 413, "body-too-large", "10000")

        def endless() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="model"; filename="net.onnx"\r\n\r\n'
            for _ in range(100):
                yield b"\0" * 1000

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        response = client.post("/models", content=endless(), headers=headers)
        assert_problem(response, 413, "body-too-large", "10000")
        assert left_over(unserved) == []


def test_a_model_may_be_larger_than_an_image(unserved: Settings, model: bytes) -> None:
    with running(unserved.model_copy(update={"max_body_bytes": 1000})) as client:
        assert client.post("/models", headers=KEY, **form(model)).status_code == 201


def test_a_model_in_two_files(client: httpx.Client, tmp_path: Path, model: bytes) -> None:
    network = onnx.load_from_string(model)
    onnx.save_model(
        network, tmp_path / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=0
    )
    graph, data = (tmp_path / "net.onnx").read_bytes(), (tmp_path / "net.onnx.data").read_bytes()
    assert_problem(client.post("/models", **form(graph)), 422, "refused-model", "net.onnx.data")
    response = client.post("/models", **form(graph, data=("net.onnx.data", data)))
    assert response.status_code == 201, response.text
    assert response.json()["changes"]


def test_the_tensors_of_a_model_may_be_in_a_folder(
    client: httpx.Client, tmp_path: Path, model: bytes
) -> None:
    network = onnx.load_from_string(model)
    (tmp_path / "weights").mkdir()
    onnx.save_model(
        network, tmp_path / "net.onnx", save_as_external_data=True, location="weights/net.data",
        size_threshold=0,
    )  # fmt: skip
    graph, data = (tmp_path / "net.onnx").read_bytes(), (tmp_path / "weights/net.data").read_bytes()
    assert_problem(
        client.post("/models", **form(graph, data=("net.data", data))),
        422,
        "refused-model",
        "weights/net.data",
    )
    response = client.post("/models", **form(graph, data=("weights/net.data", data)))
    assert response.status_code == 201, response.text
    (file,) = response.json()["card"]["given"]["data"]
    assert file == {
        "name": "weights/net.data", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()
    }  # fmt: skip


@pytest.mark.parametrize("name", ["/tmp/net.onnx.data", "C:\\exports\\net.onnx.data"])
def test_the_folders_of_a_whole_path_are_left_out(
    name: str, client: httpx.Client, tmp_path: Path, model: bytes
) -> None:
    network = onnx.load_from_string(model)
    onnx.save_model(
        network, tmp_path / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=0
    )
    graph, data = (tmp_path / "net.onnx").read_bytes(), (tmp_path / "net.onnx.data").read_bytes()
    response = client.post("/models", **form(graph, data=(name, data)))
    assert response.status_code == 201, response.text


def test_an_upload_that_breaks_off_leaves_nothing(
    client: httpx.Client, keyed: Settings, model: bytes
) -> None:
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 80)
    connection.putrequest("POST", "/models")
    for name, value in {
        **KEY, "Content-Type": "multipart/form-data; boundary=b", "Content-Length": "100000"
    }.items():  # fmt: skip
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(
        b'--b\r\nContent-Disposition: form-data; name="model"; filename="net.onnx"\r\n\r\n' + model
    )
    until(lambda: bool(left_over(keyed)), "the upload has begun")
    connection.close()
    until(lambda: not left_over(keyed), "what was sent is gone")


@pytest.mark.slow
def test_two_adds_at_once_have_one_winner(client: httpx.Client, model: bytes) -> None:
    statuses: list[int] = []

    def post() -> None:
        with http_client(client.base_url) as own:

            def answered() -> bool:
                """Whether the answer is another than that two are being added already."""
                response = own.post("/models?name=mine", headers=KEY, timeout=60, **form(model))
                if response.status_code == 503:
                    assert_problem(response, 503, "busy", "2 at a time")
                    return False
                statuses.append(response.status_code)
                return True

            until(answered, "an answer")

    threads = [threading.Thread(target=post) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201, 409, 409]


def test_a_third_upload_at_once_is_refused(client: httpx.Client, keyed: Settings, model: bytes) -> None:
    connections = []
    for number in range(2):
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 80)
        connection.putrequest("POST", "/models")
        for name, value in {
            **KEY, "Content-Type": "multipart/form-data; boundary=b", "Content-Length": "100000"
        }.items():  # fmt: skip
            connection.putheader(name, value)
        connection.endheaders()
        until(lambda number=number: len(left_over(keyed)) == number + 1, "the upload has begun")
        connections.append(connection)
    assert_problem(client.post("/models", **form(model)), 503, "busy", "2 at a time")
    for connection in connections:
        connection.close()
    until(lambda: not left_over(keyed), "what was sent is gone")
    until(lambda: client.post("/models", **form(model)).status_code == 201, "there is room for an upload")


@pytest.mark.slow
def test_a_model_whose_layer_another_uses_stays(client: httpx.Client, keyed: Settings, model: bytes) -> None:
    assert client.put("/models/parent", **form(model)).status_code == 201
    folder, child = keyed.added_models / "parent", keyed.added_models / "child"
    shutil.copytree(folder, keyed.added_models / ".child")
    card = json.loads((folder / "card.json").read_text()) | {"name": "child"}
    assert card["classifier"]["model"] == "parent"
    (keyed.added_models / ".child/card.json").write_text(json.dumps(card))
    (keyed.added_models / ".child/classifier.npz").unlink()
    (keyed.added_models / ".child").rename(child)
    until(lambda: client.get("/models/child").status_code == 200, "the other is there")
    assert_problem(client.delete("/models/parent"), 409, "model-in-use", "'child'")
    assert client.delete("/models/child").status_code == 204
    assert client.delete("/models/parent").status_code == 204


@pytest.mark.slow
def test_swaps_under_eight_clients_lose_no_request(tmp_path: Path, png: bytes) -> None:
    """`make test-faults` does this for a minute."""
    folder = versioned_model(tmp_path / "zoo", "swapped", seed=100)
    make_tiny_model(tmp_path / "zoo", "other")
    settings = Settings(model_dirs=(tmp_path / "zoo",), default_model="other", data_dir=tmp_path / "data")
    with running(settings) as client:
        answers, swaps = swap_under_load(client.base_url, folder, png, seconds=2, at_least=2)
    answers.check(swaps)
    assert swaps >= 2
    assert len(answers.requests) == 3
