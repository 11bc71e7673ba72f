"""The weigher itself, where OpenVINO is installed: what it does on the event loop, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image
from structlog.testing import capture_logs

from models.zoo.files import NETWORKS
from service.app import build
from service.errors import ModelUnavailable
from service.inference.loading import ServedModel
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry
from service.inference.runtimes import weigher as module
from service.inference.runtimes.base import Session, SessionError
from service.inference.runtimes.choice import Choice, Requested, RuntimeChoices
from service.inference.runtimes.openvino import FloatPrecision, OpenVinoSession
from service.inference.runtimes.weigher import (
    PICTURES,
    ROUNDS,
    GalleryPictures,
    RunFailed,
    Weigher,
    is_passing,
)
from service.inference.runtimes.weighing import Answers, Conditions, Weighing
from service.settings import Settings
from tests.helpers.networks import LIGHT, save_network

FLOAT = "fashion-inverted-residual"

pytestmark = pytest.mark.openvino


async def no_pictures(_: int) -> AsyncIterator[bytes]:
    """An empty gallery."""
    for picture in ():
        yield picture


@pytest.fixture
def choices(tmp_path: Path) -> RuntimeChoices:
    """What is to run the model: `auto`."""
    return RuntimeChoices("auto", tmp_path / "data")


@pytest.fixture
def registry(tmp_path: Path, choices: RuntimeChoices) -> Registry:
    """One loaded model, which is to be weighed."""
    shutil.copytree(NETWORKS / FLOAT, tmp_path / "zoo" / FLOAT)
    registry = Registry([tmp_path / "zoo"], FLOAT, choices=choices)
    registry.load()
    return registry


@contextlib.asynccontextmanager
async def weighing(
    registry: Registry,
    pool: CorePool | None = None,
    busy: Callable[[], bool] = lambda: False,
    gallery: GalleryPictures = no_pictures,
) -> AsyncIterator[Weigher]:
    """Weigh the registry's models."""
    pool = pool or CorePool(1, 4)
    weigher = Weigher(registry, pool, gallery, max_pixels=10**7, busy=busy)
    weigher.start()
    try:
        yield weigher
    finally:
        await weigher.close()
        await asyncio.to_thread(pool.close)


async def is_weighed(registry: Registry) -> None:
    """Return once the model is weighed."""
    async with asyncio.timeout(120):
        while registry.get().weighing is None:
            await asyncio.sleep(0.02)


def test_event_loop_is_left_alone(registry: Registry) -> None:
    """Neither pictures nor statistics are made on its thread, nor is the machine or a file read there."""
    called = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.add(frame.f_code.co_name)

    async def check() -> None:
        async with weighing(registry):
            sys.setprofile(watch)  # of this thread
            try:
                await is_weighed(registry)
            finally:
                sys.setprofile(None)

    asyncio.run(check())
    assert "_measure" in called, "the weigher's coroutines run on this thread"
    slow = {"_noise", "bootstrap", "read_bytes", "this_machine", "import_problem", "_difference", "_open"}
    assert not called & slow


def won(model: ServedModel) -> Weighing:
    """A weighing that OpenVINO wins."""
    answers = Answers(pictures="32 of noise", n=32, same=32, deviation=0, limit=0.5)
    here = Conditions.here(model.card, 1)
    facts = {"precision": "fp32", "speedup": 2, "low": 1.9, "high": 2.1, "faster": True, "answers": answers}
    named = {"model": model.name, "conditions": here, "floats": model.choice.floats, "at": datetime.now(UTC)}
    return Weighing.model_validate(named | facts)


def test_session_that_was_weighed_is_installed(registry: Registry, choices: RuntimeChoices) -> None:
    model = registry.get()
    opened = registry.open_in_openvino(model)
    registry.keep_weighing(model, won(model), opened)
    assert registry.get().runner is opened
    assert choices.weighing(model.card, model.choice) == registry.get().weighing


def test_model_that_is_reloaded_while_it_is_weighed(registry: Registry, choices: RuntimeChoices) -> None:
    """Another card with the same file: what was opened with the old card must not serve."""
    model = registry.get()
    opened = registry.open_in_openvino(model)
    path = registry.entry(FLOAT).folder / "card.json"
    card = json.loads(path.read_text())
    card["input"]["mean"] = [value + 1 for value in card["input"]["mean"]]
    path.write_text(json.dumps(card))
    for _ in range(2):
        registry.refresh()
    changed = registry.get()
    assert changed.version == model.version
    assert changed.session is not model.session
    registry.keep_weighing(model, won(model), opened)
    assert registry.get() is changed
    assert choices.weighing(changed.card, changed.choice) is None


def test_runtime_that_is_chosen_while_the_model_is_weighed(
    registry: Registry, choices: RuntimeChoices
) -> None:
    model = registry.get()
    opened = registry.open_in_openvino(model)
    registry.choose_runtime(FLOAT, Requested(runtime="openvino", floats="f32"))
    chosen = registry.get()
    registry.keep_weighing(model, won(model), opened)
    assert registry.get() is chosen
    assert chosen.runner not in (None, opened)
    assert choices.weighing(model.card, model.choice) is None


def test_file_that_is_no_longer_the_served_one(registry: Registry) -> None:
    model = registry.get()
    path = registry.entry(FLOAT).folder / model.card.file.name
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ModelUnavailable, match="not the one that the card describes"):
        registry.open_in_openvino(model)


def test_request_for_auto_discards_the_weighing(
    registry: Registry, choices: RuntimeChoices, tmp_path: Path
) -> None:
    model = registry.get()
    registry.keep_weighing(model, won(model), registry.open_in_openvino(model))
    registry.choose_runtime(FLOAT, Requested(runtime="auto"))
    again = registry.get()
    assert (again.runner, again.weighing, again.not_chosen) == (None, None, "not weighed yet")
    for known in (choices, RuntimeChoices("auto", tmp_path / "data")):
        assert known.weighing(again.card, again.choice) is None


class Counting(Registry):
    """Counts how often a model is opened in OpenVINO."""

    opened = 0

    def open_in_openvino(self, model: ServedModel, *, floats: FloatPrecision | None = None) -> Session:
        self.opened += 1
        return super().open_in_openvino(model, floats=floats)


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    """A registry that counts."""
    shutil.copytree(NETWORKS / FLOAT, tmp_path / "zoo" / FLOAT)
    counting = Counting([tmp_path / "zoo"], FLOAT, choices=RuntimeChoices("auto"))
    counting.load()
    return counting


def test_nothing_is_opened_while_a_benchmark_runs(counting: Counting) -> None:
    asked: list[int] = []

    def busy() -> bool:
        asked.append(counting.opened)
        return len(asked) < 3

    async def check() -> None:
        async with weighing(counting, busy=busy):
            await is_weighed(counting)

    asyncio.run(check())
    assert asked[:3] == [0, 0, 0]
    assert counting.opened == 1


def count_runs(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one item at each run of a session or of its copies."""
    runs: list[int] = []
    run = session.run

    def counted(*given: Any, **options: Any) -> Mapping[str, NDArray[np.float32]]:
        runs.append(1)
        return run(*given, **options)

    monkeypatch.setattr(session, "run", counted)
    return runs


def test_both_runtimes_run_equally_often(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast they are: the median of more runs would be less disturbed."""
    model = registry.get()
    opened = registry.open_in_openvino(model)
    runs = [count_runs(session, monkeypatch) for session in (model.session, opened)]
    monkeypatch.setattr(registry, "open_in_openvino", lambda *_, **__: opened)

    async def check() -> None:
        async with weighing(registry):
            await is_weighed(registry)

    asyncio.run(check())
    assert len(runs[0]) > PICTURES + ROUNDS
    if registry.get().runner is None:  # else it was warmed up to serve
        assert len(runs[1]) == len(runs[0]) + 1, "and once when it was opened"


def test_pictures_of_the_gallery_are_read_one_at_a_time(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, png: bytes, cat_jpeg: bytes
) -> None:
    """32 pictures may take more memory than all models."""
    runs = count_runs(registry.get().session, monkeypatch)
    runs_before: list[int] = []

    async def gallery(count: int) -> AsyncIterator[bytes]:
        assert count == PICTURES
        for picture in (png, b"no picture", cat_jpeg, png):
            runs_before.append(len(runs))
            yield picture

    async def check() -> None:
        async with weighing(registry, gallery=gallery):
            await is_weighed(registry)

    asyncio.run(check())
    first = runs_before[0]
    assert runs_before == [first, first + 1, first + 1, first + 2]
    result = registry.get().weighing
    assert result is not None
    assert result.answers is not None
    assert result.answers.pictures == (
        "4 pictures of the gallery, 4 bundled photographs, 24 of noise, 1 of them left out"
    )


def test_slow_model_is_compared_on_fewer_pictures_and_not_timed(
    registry: Registry, choices: RuntimeChoices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any model is too slow for no time at all."""
    monkeypatch.setattr(module, "COMPARE_S", 0)
    monkeypatch.setattr(module, "MOST_RUN_S", 0)
    runs = count_runs(registry.get().session, monkeypatch)

    async def check() -> None:
        async with weighing(registry):
            await is_weighed(registry)

    asyncio.run(check())
    model = registry.get()
    assert len(runs) == 2
    assert model.runner is None
    assert str(model.not_chosen).startswith("not timed: a run takes longer than 0 s; answers cannot be ")
    result = model.weighing
    assert result is not None
    assert result.answers is not None
    assert (result.answers.pictures, result.answers.n) == ("1 bundled photograph", 1)
    assert (result.faster, result.switches, result.refused) == (False, False, False)
    chosen = Choice("openvino", "request")
    choices.keep(FLOAT, Requested(runtime="openvino"))
    assert choices.weighing(model.card, chosen) == result
    assert choices.serving(model.card).runtime == "openvino"


def test_runtime_that_fails_is_named(tmp_path: Path) -> None:
    """Both give NaN for dark pictures; ONNX Runtime runs first."""
    save_network(tmp_path / "zoo", "log", (("Log", (LIGHT,), {}),), classes=3)
    registry = Registry([tmp_path / "zoo"], "log", choices=RuntimeChoices("auto"))
    registry.load()
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "PNG")

    async def gallery(_: int) -> AsyncIterator[bytes]:
        yield buffer.getvalue()

    async def check() -> None:
        async with weighing(registry, gallery=gallery):
            await is_weighed(registry)

    asyncio.run(check())
    result = registry.get().weighing
    assert result is not None
    assert result.problem == "ONNX Runtime: output 'logits' is not finite: 3 of 3 values"
    assert registry.get().not_chosen == f"cannot be weighed: {result.problem}"
    assert not result.refused, "OpenVINO runs it, if a request says so"
    reason = "OpenVINO 2026.4.0 cannot run it: no memory"
    assert str(RunFailed("openvino", reason)) == reason


def test_weighing_stops_at_once_with_the_service(tmp_path: Path) -> None:
    """Requests are finished in the time that a service has left after SIGTERM: no step begins then."""
    shutil.copytree(NETWORKS / FLOAT, tmp_path / "zoo" / FLOAT)
    services = build(
        Settings(
            model_dirs=(tmp_path / "zoo",), default_model=FLOAT, data_dir=tmp_path / "data", runtime="auto"
        )
    )
    pool = services.pool

    async def check() -> None:
        async with services.running(FastAPI()):
            async with asyncio.timeout(60):
                while pool.begun < 3:
                    await asyncio.sleep(0.001)
            services.stop()
            begun = pool.begun
            for _ in range(50):
                await pool.run(lambda: None, Deadline.after(60))
            assert pool.begun == begun + 50
            services.weigher.start()
            assert services.registry.get().weighing is None

    asyncio.run(check())


def test_overload_does_not_begin_again(counting: Counting) -> None:
    """Nor does weighing touch what is known of the session that serves."""
    pool, go_on = CorePool(1, 0), threading.Event()
    counting.get().session.failure = "an earlier failure"

    async def check() -> None:
        async with weighing(counting, pool):
            blocking = asyncio.create_task(pool.run(go_on.wait, Deadline.after(60)))
            async with asyncio.timeout(60):
                while pool.begun < 4:  # the job above, and three that were refused
                    await asyncio.sleep(0.02)
            go_on.set()
            await blocking
            await is_weighed(counting)

    try:
        asyncio.run(check())
    finally:
        go_on.set()
    assert counting.opened == 1
    assert counting.get().session.failure == "an earlier failure"


def test_file_that_cannot_be_read_is_no_result(registry: Registry) -> None:
    path = registry.entry(FLOAT).folder / registry.get().card.file.name
    content = path.read_bytes()
    path.unlink()

    async def check() -> None:
        with capture_logs() as logs:
            async with weighing(registry):
                async with asyncio.timeout(60):
                    while not any(line["event"] == "weighing put off" for line in logs):
                        await asyncio.sleep(0.02)
                assert registry.get().weighing is None
                path.write_bytes(content)
                registry.choose_runtime(FLOAT, Requested(runtime="auto"))
                await is_weighed(registry)

    asyncio.run(check())
    result = registry.get().weighing
    assert result is not None
    assert result.problem is None


def test_lack_of_time_is_no_lasting_problem(registry: Registry) -> None:
    """A network that OpenVINO refuses is one."""
    model = registry.get()
    spec = model.card.input
    image = np.zeros((1, spec.channels, spec.height, spec.width), np.float32)
    with pytest.raises(ModelUnavailable, match="longer than 0 s") as late:
        registry.open_in_openvino(model).run(image, limit_s=0)
    assert is_passing(late.value)
    with pytest.raises(SessionError) as refused:
        OpenVinoSession(b"no network", model.card)
    assert not is_passing(refused.value)
