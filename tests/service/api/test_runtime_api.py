"""PUT /models/{name}/runtime and WEIGHIN_RUNTIME where OpenVINO is not installed; what answers say of it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from filelock import FileLock
from pydantic import SecretStr

from models.zoo.card import Card, read_card, write_card
from service.api import models, problems
from service.api.body.request import add_parts
from service.api.middleware.context import RequestContext
from service.api.model_changer import ModelChanger
from service.api.routers import ApiKey, add_routes
from service.app import create_app
from service.bench.doctor.model import ModelUnderTest
from service.bench.doctor.running import RunSettings, faster_in_openvino
from service.errors import InvalidParameter, StorageUnavailable
from service.inference.registry import Registry
from service.inference.runtimes import choice, opening, openvino
from service.inference.runtimes.choice import Choice, Requested, RuntimeChoices
from service.inference.session import RUNTIME_VERSION
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.problems import assert_problem
from tests.service.conftest import running

Serve = Callable[..., httpx.Client]
ONNX_RUNTIME = {
    "name": "onnxruntime", "version": RUNTIME_VERSION, "precision": "fp32",
    "chosen": "onnxruntime", "origin": "setting", "reason": None, "weighed": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide OpenVINO, for environments that have it."""
    find_spec = opening.importlib.util.find_spec
    monkeypatch.setattr(
        opening.importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )


def runtime_of(client: httpx.Client, name: str = "tiny") -> dict[str, object]:
    found: dict[str, object] = client.get(f"/models/{name}").json()["runtime"]
    return found


def test_choice_is_kept_and_taken_back(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    assert runtime_of(client) == ONNX_RUNTIME
    chosen = client.put("/models/tiny/runtime?runtime=onnxruntime")
    assert chosen.status_code == 200
    assert chosen.json() == client.get("/models/tiny").json()
    assert runtime_of(client) == ONNX_RUNTIME | {"origin": "request"}
    assert runtime_of(client, "tiny-b") == ONNX_RUNTIME
    kept = json.loads((tmp_path / "data/runtimes.json").read_text())
    assert kept["requested"] == {"tiny": {"runtime": "onnxruntime", "floats": None}}
    assert client.put("/models/tiny/runtime?runtime=default").json()["runtime"] == ONNX_RUNTIME
    assert json.loads((tmp_path / "data/runtimes.json").read_text())["requested"] == {}


@pytest.mark.slow
def test_choice_outlasts_a_restart(tiny_settings: Settings) -> None:
    for expected in ("setting", "request"):
        with running(tiny_settings) as client:
            assert runtime_of(client)["origin"] == expected
            client.put("/models/tiny/runtime?runtime=onnxruntime")


def test_refused_choices(serve: Serve) -> None:
    client = serve()
    for query, words in (
        (
            "runtime=openvino",
            "runtime 'openvino': OpenVINO is not installed (install it with: ",
        ),
        ("runtime=tflite", "'onnxruntime', 'openvino', 'auto' or 'default'"),
        ("runtime=onnxruntime&precision=bf16", "precision 'bf16': not with runtime 'onnxruntime'"),
        ("", "runtime"),
    ):
        assert_problem(client.put(f"/models/tiny/runtime?{query}"), 422, "invalid-parameter", words)
    assert "literal" not in client.put("/models/tiny/runtime?runtime=tflite").json()["detail"]
    assert runtime_of(client) == ONNX_RUNTIME
    answer = client.put("/models/nope/runtime?runtime=onnxruntime")
    assert_problem(answer, 404, "unknown-model", "'nope'")


def test_choice_needs_the_key(serve: Serve) -> None:
    client = serve(api_key=SecretStr("secret"))
    answer = client.put("/models/tiny/runtime?runtime=onnxruntime")
    assert_problem(answer, 401, "unauthorized", "API key: missing")
    headers = {"Authorization": "Bearer secret"}
    assert client.put("/models/tiny/runtime?runtime=onnxruntime", headers=headers).status_code == 200


class WaitingChoices(RuntimeChoices):
    """Waits where it is asked for a model's runtime while models load, and where it keeps a choice."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = threading.Event(), threading.Event()

    def of(self, card: Card) -> Choice:
        self.wait()
        return super().of(card)

    def keep(self, name: str, requested: Requested | None) -> None:
        self.wait()
        super().keep(name, requested)

    def wait(self) -> None:
        self.reached.set()
        assert self.go_on.wait(60)


async def nothing() -> tuple[str, ...]:
    return ()


def test_one_choice_at_a_time_and_none_while_models_load(tiny_models_dir: Path, tmp_path: Path) -> None:
    """A choice waits for loading models and for other choices, so it must not hold a thread of all routes."""
    choices = WaitingChoices()
    registry = Registry([tiny_models_dir], "tiny", added=tmp_path, choices=choices)
    app = FastAPI()
    problems.install(app)
    app.add_middleware(RequestContext, allowed_origins=frozenset(), log_requests=False)
    add_parts(app, [ApiKey(None), registry, ModelChanger(registry, nothing)])
    add_routes(app, [models.router])

    async def choose(client: httpx.AsyncClient, name: str = "tiny") -> httpx.Response:
        choice = client.put(f"/models/{name}/runtime?runtime=onnxruntime")
        return await asyncio.wait_for(choice, 30)

    async def check(client: httpx.AsyncClient) -> None:
        loading = asyncio.create_task(asyncio.to_thread(registry.load))
        assert await asyncio.to_thread(choices.reached.wait, 60)
        assert_problem(await choose(client), 503, "not-ready", "models are still being loaded")
        assert_problem(await choose(client, "nope"), 404, "unknown-model", "'nope'")
        choices.go_on.set()
        await loading
        choices.reached.clear()
        choices.go_on.clear()
        first = asyncio.create_task(choose(client))
        assert await asyncio.to_thread(choices.reached.wait, 60)
        words = "another choice is being made (allowed: one at a time)"
        assert_problem(await choose(client), 503, "busy", words)
        choices.go_on.set()
        assert (await first).status_code == 200
        assert (await choose(client)).status_code == 200

    async def run() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            try:
                await check(client)
            finally:
                choices.go_on.set()

    asyncio.run(run())


def test_choice_is_deleted_with_its_model(tiny_models_dir: Path, tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "added", "mine")
    choices = RuntimeChoices(folder=tmp_path)
    registry = Registry([tiny_models_dir], "tiny", added=tmp_path / "added", choices=choices)
    registry.load()
    card = registry.get("mine").card
    for name in ("mine", "tiny"):
        registry.choose_runtime(name, Requested(runtime="onnxruntime"))
    asyncio.run(ModelChanger(registry, nothing).delete("mine"))
    assert "mine" not in registry.names()
    for kept in (choices, RuntimeChoices(folder=tmp_path)):
        assert kept.of(card) == Choice("onnxruntime", "setting")
        assert kept.of(registry.get("tiny").card).origin == "request"


@pytest.mark.slow
def test_choice_for_a_model_that_is_gone_can_be_taken_back(tiny_settings: Settings) -> None:
    """And for one whose folder is broken."""
    added = tiny_settings.added_models
    default = "/models/mine/runtime?runtime=default"
    for reason in ("no such model; its chosen runtime is forgotten", "its file model.onnx is missing"):
        folder = make_tiny_model(added, "mine")
        with running(tiny_settings) as client:
            assert client.put("/models/mine/runtime?runtime=onnxruntime").status_code == 200
        if reason.startswith("no such"):
            shutil.rmtree(folder)
        else:
            (folder / "model.onnx").unlink()
        with running(tiny_settings) as client:
            answer = client.put(default).json()
            assert (answer["name"], answer["loaded"], answer["reason"]) == ("mine", False, reason)
            assert client.put(default).status_code in (404, 503)
        assert json.loads((tiny_settings.data_dir / "runtimes.json").read_text())["requested"] == {}


def test_services_on_one_folder_keep_what_the_other_wrote(tmp_path: Path, tiny_models_dir: Path) -> None:
    """With PostgreSQL a data directory is not locked: two services change the file at the same time."""
    card = read_card(tiny_models_dir / "tiny")
    services = [RuntimeChoices(folder=tmp_path) for _ in range(2)]
    wanted = Requested(runtime="onnxruntime")
    names = [[f"{which}-{number}" for number in range(20)] for which in "ab"]

    def keep(choices: RuntimeChoices, own: list[str]) -> None:
        for name in own:
            choices.keep(name, wanted)

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(keep, services, names))
    assert set(json.loads((tmp_path / "runtimes.json").read_text())["requested"]) == {*names[0], *names[1]}
    services[0].keep("tiny", wanted)
    services[1].keep("tiny", None)
    assert services[0].of(card).origin == "request", "until it is restarted"
    assert RuntimeChoices(folder=tmp_path).of(card).origin == "setting"


def test_file_that_another_process_is_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_LOCK_WAIT_S", 0)
    choices = RuntimeChoices(folder=tmp_path)
    with (
        FileLock(tmp_path / "runtimes.lock"),
        pytest.raises(StorageUnavailable, match="another process is writing it"),
    ):
        choices.keep("tiny", Requested(runtime="onnxruntime"))
    choices.keep("tiny", Requested(runtime="onnxruntime"))


def test_choice_that_cannot_be_kept(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    (tmp_path / "data/runtimes.json").mkdir()
    answer = client.put("/models/tiny/runtime?runtime=onnxruntime")
    assert_problem(answer, 507, "storage-unavailable", "runtimes.json cannot be written: is a directory")
    assert runtime_of(client) == ONNX_RUNTIME


def test_valid_entries_of_a_file_are_kept(tiny_settings: Settings, tmp_path: Path) -> None:
    """One runtime and one weighing are unknown, as after a downgrade."""
    card = read_card(tiny_settings.model_dirs[0] / "tiny")
    here = {"sha256": "0" * 64, "cpu": "CPU", "cpu_id": "", "instruction_set": [], "cores": 2}
    here |= {"card": "0" * 64, "threads": 2, "options": {}}
    weighing = {
        "model": "tiny", "conditions": here | {"onnxruntime": "1", "openvino": "2"}, "floats": None,
        "at": "2026-11-29T12:00:00Z",
    }  # fmt: skip
    requested = {"tiny": {"runtime": "onnxruntime"}, "other": {"runtime": "tflite"}}
    path = tmp_path / "runtimes.json"
    path.write_text(
        json.dumps({"requested": requested, "weighings": [weighing, weighing | {"floats": "f8"}]})
    )
    choices = RuntimeChoices(folder=tmp_path)
    assert choices.of(card) == Choice("onnxruntime", "request")
    choices.keep("more", Requested(runtime="onnxruntime"))
    kept = json.loads(path.read_text())
    assert set(kept["requested"]) == {"tiny", "more"}
    assert [each["floats"] for each in kept["weighings"]] == [None]


@pytest.mark.parametrize(
    "content", ["", "{", '{"schema_version": 2}', '{"requested": {"a/b": {}}}', "\0\xff"]
)
def test_damaged_file_is_ignored(tiny_settings: Settings, tmp_path: Path, content: str) -> None:
    (tmp_path / "data/runtimes.json").write_text(content)
    with running(tiny_settings) as client:
        assert runtime_of(client) == ONNX_RUNTIME
        assert client.put("/models/tiny/runtime?runtime=onnxruntime").status_code == 200


def test_setting_of_a_runtime_that_is_not_installed(tiny_settings: Settings) -> None:
    with pytest.raises(InvalidParameter, match=r"WEIGHIN_RUNTIME 'openvino': not installed .*pip install"):
        create_app(tiny_settings.model_copy(update={"runtime": "openvino"}))


@pytest.fixture(params=["raises ImportError", "an empty folder"])
def broken_openvino(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Put a package `openvino` that cannot be used before all others; yield the words of its error."""
    package = tmp_path / "site" / "openvino"
    package.mkdir(parents=True)
    monkeypatch.undo()  # `without_openvino`
    if request.param == "an empty folder" and opening.is_installed("openvino"):
        pytest.skip("an installed package has precedence over a folder")
    if request.param == "raises ImportError":
        note = f"with open({str(package.parent / 'tries')!r}, 'a') as file:\n    file.write('.')"
        (package / "__init__.py").write_text(f"{note}\nraise ImportError('libtbb.so.12: no such file')\n")
        facts = package.parent / "openvino-1.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: openvino\nVersion: 1\n")
    known = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "openvino"}
    for name in known:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(package.parent)
    caches = (openvino.import_openvino, openvino.openvino_version, opening.import_problem)
    for cache in caches:
        cache.cache_clear()
    yield "libtbb" if request.param == "raises ImportError" else "not installed"
    monkeypatch.undo()
    sys.modules.pop("openvino", None)
    for cache in caches:
        cache.cache_clear()
    sys.modules |= known


def test_broken_openvino(tiny_settings: Settings, broken_openvino: str, tmp_path: Path) -> None:
    """Models are served nevertheless, unless the setting asks for it. Its import is tried once."""
    with pytest.raises(InvalidParameter, match=rf"{broken_openvino}.* \(allowed: onnxruntime, auto"):
        RuntimeChoices("openvino")
    card = read_card(tiny_settings.model_dirs[0] / "tiny")
    for default in ("onnxruntime", "auto"):
        choices = RuntimeChoices(default)
        registry = Registry(tiny_settings.model_dirs, "tiny", choices=choices)
        registry.load()
        assert registry.get().predictor.runtime == "onnxruntime"
        reason = str(registry.get().not_chosen)
        assert (broken_openvino in reason) if default == "auto" else reason == "None"
        with pytest.raises(InvalidParameter, match=broken_openvino):
            registry.choose_runtime("tiny", Requested(runtime="openvino"))
        assert choices.of(card) == Choice(default)
    # `weighin doctor` does not fail either.
    content = (tiny_settings.model_dirs[0] / "tiny" / "model.onnx").read_bytes()
    assert list(faster_in_openvino(ModelUnderTest(card, content), RunSettings())) == []
    tries = tmp_path / "site/tries"
    assert not tries.exists() or tries.read_text() == "."


@pytest.mark.parametrize(
    ("declared", "used", "expected"),
    [
        ("fp32", {"F32"}, "fp32"),
        ("fp32", {"BF16", "F32"}, "bf16"),
        ("fp32", {"F16"}, "fp16"),
        ("fp16", {"F32"}, "fp16"),
        ("int8", {"I8", "U8", "F32"}, "int8"),
        ("int8", {"U8", "BF16"}, "int8+bf16"),
        ("int8", {"I8", "F16"}, "int8+fp16"),
        ("int8", {"F32"}, "fp32"),
        ("int8", {"BF16"}, "bf16"),
    ],
)
def test_precision_by_the_types_that_openvino_computes_in(
    declared: str, used: set[str], expected: str
) -> None:
    assert openvino.precision_of(declared, frozenset(used)) == expected


def test_auto_without_openvino(tiny_settings: Settings, png: bytes) -> None:
    with running(tiny_settings.model_copy(update={"runtime": "auto"})) as client:
        runtime = runtime_of(client)
        assert (runtime["name"], runtime["chosen"], runtime["origin"]) == ("onnxruntime", "auto", "setting")
        assert str(runtime["reason"]).startswith("OpenVINO is not installed (install it with:")
        assert runtime["weighed"] is None
        assert client.post("/classify", content=png).json()["runtime"] == "onnxruntime"
        chosen = client.put("/models/tiny-b/runtime?runtime=auto").json()["runtime"]
        assert (chosen["chosen"], chosen["origin"]) == ("auto", "request")


@pytest.mark.slow
def test_card_of_a_runtime_that_is_not_installed(tmp_path: Path, png: bytes) -> None:
    folder = make_tiny_model(tmp_path / "zoo", "tiny")
    write_card(folder, read_card(folder).model_copy(update={"schema_version": 2, "runtime": "openvino"}))
    settings = Settings(model_dirs=(tmp_path / "zoo",), default_model="tiny", data_dir=tmp_path / "data")
    with running(settings) as client:
        runtime = runtime_of(client)
        assert (runtime["name"], runtime["chosen"], runtime["origin"]) == ("onnxruntime", "openvino", "card")
        assert "not installed" in str(runtime["reason"])
        assert client.post("/classify", content=png).json()["runtime"] == "onnxruntime"
        # A request has precedence over the card.
        chosen = client.put("/models/tiny/runtime?runtime=onnxruntime").json()["runtime"]
        assert chosen == ONNX_RUNTIME | {"origin": "request"}
        taken_back = client.put("/models/tiny/runtime?runtime=default").json()["runtime"]
        assert (taken_back["chosen"], taken_back["origin"]) == ("openvino", "card")


def test_answers_and_latencies_name_the_runtime(serve: Serve, png: bytes) -> None:
    client = serve()
    answer = client.post("/classify", content=png).json()
    assert (answer["runtime"], answer["precision"]) == ("onnxruntime", "fp32")
    compared = client.post("/compare", content=png).json()["results"]
    assert [(each["runtime"], each["precision"]) for each in compared] == [("onnxruntime", "fp32")] * 2
    recorded = [{"model": "tiny", "runtime": "onnxruntime"}]
    for path in ("/latency", "/latency/history", "/latency/distribution"):
        assert client.get(f"{path}?model=tiny").json()["runtimes"] == recorded
    shown = client.get("/metrics").text
    assert 'weighin_model_runtime_info{model="tiny",precision="fp32",runtime="onnxruntime"} 1.0' in shown
    query = "/latency?model=tiny&stage=total&runtime="
    assert client.get(f"{query}onnxruntime").json()["latencies"][0]["count"] == 1
    assert client.get(f"{query}openvino-bf16").json()["latencies"][0]["count"] == 0
    assert client.get(f"{query}openvino-int8-bf16").status_code == 200
    assert_problem(client.get(f"{query}openvino-int8+bf16"), 422, "invalid-parameter", "runtime")
    assert_problem(client.get(f"{query}a'b"), 422, "invalid-parameter", "runtime")
    assert client.get("/latency/distribution?model=tiny&runtime=openvino").json()["count"] == 0
