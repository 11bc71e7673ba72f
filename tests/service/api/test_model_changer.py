"""What the registry refuses leaves the folders of models as they were."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from service.api.model_changer import ModelChanger
from service.api.model_upload import Upload
from service.errors import ModelExists, RefusedModel
from service.inference.registry import Registry
from service.own_models.add import Options
from tests.conftest import make_tiny_model
from tests.helpers.foreign import graph_of, save


async def no_models() -> Collection[str]:
    return ()


def upload(folder: Path, seed: int) -> Upload:
    made = make_tiny_model(folder / str(seed), "made", seed=seed)
    labels = folder / "names.txt"
    labels.write_text("".join(f"thing {number}\n" for number in range(10)))
    return Upload(made / "model.onnx", Options(name="mine", labels=labels))


def slow(folder: Path) -> Path:
    """A network whose loop runs for longer than the registry waits below."""
    names = ["go_on", "next"]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on_before"], [names[0]]),
            helper.make_node("Tanh", ["before"], [names[1]]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on_before", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["N", 3]),
        ],
        [
            helper.make_tensor_value_info(names[0], TensorProto.BOOL, []),
            helper.make_tensor_value_info(names[1], TensorProto.FLOAT, ["N", 3]),
        ],
    )
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Loop", ["rounds", "yes", "flat"], ["y"], body=body),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])
    scores = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    tensors = {"rounds": np.array(30_000, np.int64), "yes": np.array(True)}
    return save(folder / "slow.onnx", graph_of(nodes, [image], [scores], tensors))


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
