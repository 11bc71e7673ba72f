"""What the registry refuses leaves the folders of models as they were."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from service.api.body.model import Upload
from service.api.model_changer import ModelChanger
from service.errors import ModelExists, RefusedModel
from service.inference.registry import Registry
from service.own_models.add import Bounds, Options
from tests.conftest import make_tiny_model
from tests.helpers.foreign import looping, save
from tests.helpers.processes import children, running
from tests.helpers.until import until


async def no_models() -> Collection[str]:
    return ()


def upload(folder: Path, seed: int) -> Upload:
    made = make_tiny_model(folder / str(seed), "made", seed=seed)
    labels = folder / "names.txt"
    labels.write_text("".join(f"thing {number}\n" for number in range(10)))
    return Upload(made / "model.onnx", Options(name="mine", labels=labels))


def slow(folder: Path, rounds: int = 10_000) -> Path:
    """A network whose loop runs for longer than the registry waits below."""
    return save(folder / "slow.onnx", looping(rounds))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry with the model `mine`, which was added."""
    make_tiny_model(tmp_path / "zoo", "tiny")
    registry = Registry([tmp_path / "zoo"], "tiny", added=tmp_path / "added")
    registry.load()
    asyncio.run(ModelChanger(registry, no_models).add(upload(tmp_path, 1), replace=False))
    return registry


@pytest.mark.slow
def test_a_replacement_that_is_refused_leaves_the_old_files(registry: Registry, tmp_path: Path) -> None:
    before, version = contents(tmp_path / "added/mine"), registry.get("mine").version
    registry._warm_up_limit_s = 0.001  # the child that tries the file has more
    changer = ModelChanger(registry, no_models)
    with pytest.raises(RefusedModel, match="'mine': cannot be served"):
        asyncio.run(changer.add(Upload(slow(tmp_path), Options(name="mine")), replace=True))
    assert contents(tmp_path / "added/mine") == before
    assert [path.name for path in (tmp_path / "added").iterdir()] == ["mine"]
    assert (registry.get("mine").version, registry.entry("mine").refused) == (version, None)
    registry.refresh()
    assert registry.entry("mine").refused is None


@pytest.mark.slow
def test_a_new_model_that_is_refused_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    registry._warm_up_limit_s = 0.001
    changer = ModelChanger(registry, no_models)
    other = Upload(slow(tmp_path), Options(name="other"))
    with pytest.raises(RefusedModel, match="'other': cannot be served"):
        asyncio.run(changer.add(other, replace=False))
    assert [path.name for path in (tmp_path / "added").iterdir()] == ["mine"]
    assert registry.names() == ("mine", "tiny")


@pytest.mark.parametrize("replace", [False, True])
def test_a_name_that_is_hidden_by_now_leaves_the_folders(
    replace: bool, registry: Registry, tmp_path: Path
) -> None:
    """A model of WEIGHIN_MODEL_DIRS has come that the registry has not read yet."""
    if not replace:
        shutil.rmtree(tmp_path / "added/mine")
        registry.refresh("mine")
    make_tiny_model(tmp_path / "zoo", "mine", seed=5)
    before = contents(tmp_path / "added/mine") if replace else None
    with pytest.raises(ModelExists, match="'mine': exists"):
        asyncio.run(ModelChanger(registry, no_models).add(upload(tmp_path, 2), replace=replace))
    if before is None:
        assert list((tmp_path / "added").iterdir()) == []
    else:
        assert contents(tmp_path / "added/mine") == before
    assert registry.entry("mine").folder == tmp_path / "zoo/mine"


def test_old_files_come_back_without_an_exchange_by_the_system(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.own_models.folders.sys.platform", "other")
    test_a_replacement_that_is_refused_leaves_the_old_files(registry, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")
def test_the_time_is_for_the_whole_addition_and_nothing_waits_for_it(
    registry: Registry, tmp_path: Path
) -> None:
    changer = ModelChanger(registry, no_models, bounds=Bounds(seconds=2))
    given = Upload(slow(tmp_path, 2**62), Options(name="other"))
    before, started = children(os.getpid()), set[int]()

    async def both() -> float:
        adding = asyncio.create_task(changer.add(given, replace=False))
        await asyncio.to_thread(until, lambda: len(children(os.getpid()) - before) >= 2, "the file runs")
        started.update(children(os.getpid()) - before)
        await changer.delete("mine")
        assert not adding.done()
        with pytest.raises(RefusedModel, match=r"slow\.onnx: .* within 2 s"):
            await adding
        return time.monotonic()

    start = time.monotonic()
    assert asyncio.run(both()) - start < 3.5  # each of its runs would take that long
    until(lambda: not any(map(running, started)), "all that ran the file has ended")
    assert list((tmp_path / "added").iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")
def test_a_crash_of_the_child_refuses_the_model(registry: Registry, tmp_path: Path) -> None:
    changer = ModelChanger(registry, no_models)
    given = Upload(slow(tmp_path, 2**62), Options(name="other"))
    before, started = children(os.getpid()), set[int]()

    def crash() -> None:
        until(lambda: len(children(os.getpid()) - before) >= 2, "the file runs")
        started.update(children(os.getpid()) - before)
        below = set[int]().union(*map(children, started))
        for pid in started - below:
            os.kill(pid, signal.SIGSEGV)

    thread = threading.Thread(target=crash)
    thread.start()
    with pytest.raises(RefusedModel, match=r"was ended .*SIGSEGV"):
        asyncio.run(changer.add(given, replace=False))
    thread.join()
    until(lambda: not any(map(running, started)), "the child's own children have ended")
    assert [path.name for path in (tmp_path / "added").iterdir()] == ["mine"]


@pytest.mark.slow
def test_little_memory_refuses_the_model(registry: Registry, tmp_path: Path) -> None:
    changer = ModelChanger(registry, no_models, bounds=Bounds(memory_bytes=1 << 25))
    with pytest.raises(RefusedModel, match=r"^model\.onnx: it needs more than [\d.]+ GiB of memory: ONNX R"):
        asyncio.run(changer.add(upload(tmp_path, 2), replace=True))
