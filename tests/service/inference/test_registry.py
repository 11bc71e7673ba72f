"""The registry: broken models say why and leave the others alone."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.zoo.files import NETWORKS, networks_in
from service.errors import ModelUnavailable, NotReady, UnknownModel
from service.inference.loading import load_model, release_memory
from service.inference.registry import Registry
from tests.conftest import make_tiny_model
from tests.helpers.processes import resident


def edit_card(folder: Path, **changes: Any) -> None:
    card = json.loads((folder / "card.json").read_text())
    for path, value in changes.items():
        target = card
        *parents, last = path.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    (folder / "card.json").write_text(json.dumps(card))


def rename_io(folder: Path, old: str, new: str) -> None:
    """Rename an input or output of the model and keep the card's sha256 true."""
    import hashlib

    model = onnx.load(folder / "model.onnx")
    for value in (*model.graph.input, *model.graph.output):
        if value.name == old:
            value.name = new
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    edit_card(folder, file__sha256=hashlib.sha256(content).hexdigest(), file__bytes=len(content))


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "sha256": (lambda f: edit_card(f, file__sha256="0" * 64), "sha256 .*, the card says 000000000000"),
    "missing file": (lambda f: (f / "model.onnx").unlink(), "its file model.onnx is missing"),
    "missing card": (lambda f: (f / "card.json").unlink(), "it has no card.json"),
    "card is no JSON": (lambda f: (f / "card.json").write_text("{"), "card.json is not valid"),
    "unknown field": (lambda f: edit_card(f, flavour="sour"), "flavour: Extra inputs are not permitted"),
    "missing label": (lambda f: (f / "labels.txt").write_text("one\ntwo\n"), "labels 'tiny-10'.*2.*10"),
    "no labels": (lambda f: (f / "labels.txt").unlink(), "labels 'tiny-10' cannot be used"),
    "other name": (lambda f: edit_card(f, name="other"), "its card names it 'other', its folder 'broken'"),
    "input shape": (
        lambda f: edit_card(f, input__height=16),
        r"input is .*the card says float \(N, \[3, 16, 32\]\)",
    ),
    "input name": (lambda f: rename_io(f, "image", "data"), r"inputs are \['data'\]"),
    "output name": (lambda f: rename_io(f, "logits", "scores"), "no output 'logits'"),
    "output shape": (lambda f: edit_card(f, outputs__embedding=[9]), "output 'embedding' is"),
    "no ONNX": (
        lambda f: (
            (f / "model.onnx").write_bytes(b"no"),
            edit_card(f, file__sha256="9390298f3fb0c5b160498935d79cb139aef28e1c47358b4bbba61862b9c26e59"),
        ),
        "cannot load the model",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_broken_model_with_its_reason(tmp_path: Path, breakage: str) -> None:
    make_tiny_model(tmp_path, "good")
    folder = make_tiny_model(tmp_path, "broken")
    break_it, reason = BREAKAGES[breakage]
    break_it(folder)
    registry = Registry([tmp_path], "good")
    registry.load()
    assert registry.ready
    assert registry.get().name == "good"
    entry = registry.entry("broken")
    assert entry.model is None
    with pytest.raises(ModelUnavailable, match=reason) as caught:
        registry.get("broken")
    assert str(tmp_path) not in str(caught.value)


def test_model_before_loading(tiny_models_dir: Path) -> None:
    registry = Registry([tiny_models_dir], "tiny")
    with pytest.raises(NotReady, match="'tiny': still loading"):
        registry.get()
    with pytest.raises(UnknownModel, match=r"model 'x': unknown \(allowed: tiny, tiny-b\)"):
        registry.get("x")
    registry.load()
    assert [model.name for model in registry.loaded] == ["tiny", "tiny-b"]
    assert all(model.typical_ns > 0 for model in registry.loaded)


def test_models_that_began_to_load_before(tmp_path: Path) -> None:
    """`load` uses what `start_loading` opened: the file is gone by then."""
    folder = make_tiny_model(tmp_path)
    registry = Registry([tmp_path], "tiny")
    registry.start_loading()
    for thread in threading.enumerate():
        if thread.name.startswith("load"):
            thread.join()
    (folder / "model.onnx").unlink()
    assert not registry.ready
    with pytest.raises(NotReady):
        registry.get()
    registry.load()
    assert registry.ready
    assert registry.get().name == "tiny"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc")
def test_memory_of_the_warm_up_is_returned() -> None:
    """A run of CenterFace needs 40 MB, which no other model would use."""
    detector, classifier = (load_model(NETWORKS / name) for name in ("centerface", "fashion-shuffle"))
    spec = detector.card.input
    before = resident(os.getpid())
    detector.session.run(np.zeros((1, 3, spec.height, spec.width), np.float32))
    release_memory([detector, classifier])
    assert resident(os.getpid()) < before - 20e6
    assert detector.session.run(np.zeros((1, 3, spec.height, spec.width), np.float32))


def test_many_models_are_not_all_in_the_message() -> None:
    error = UnknownModel("efficientnet-lite9", Registry([NETWORKS], "efficientnet-lite0").names())
    assert error.detail.startswith("model 'efficientnet-lite9': unknown (allowed: efficientnet-lite")
    assert error.detail.endswith(f" {len(list(NETWORKS.iterdir())) - 5} others)")
    assert error.extensions == {"models": sorted(path.name for path in NETWORKS.iterdir())}
    assert UnknownModel("x", list("abcdef")).detail == "model 'x': unknown (allowed: 6 models)"


def test_two_models_with_one_name(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "own", "tiny", labels="own-10")
    make_tiny_model(tmp_path / "zoo", "tiny", labels="zoo-10")
    registry = Registry([tmp_path / "own", tmp_path / "zoo"], "tiny")
    registry.load()
    assert registry.get().card.labels == "own-10"


def test_models_in_the_folder_networks_of_a_zoo(tmp_path: Path) -> None:
    """`WEIGHIN_MODEL_DIRS=models/zoo`, where the project's models were, goes on working."""
    make_tiny_model(tmp_path / "networks", "tiny")
    make_tiny_model(tmp_path / "networks/networks", "deeper")
    make_tiny_model(tmp_path, "beside")
    (tmp_path / "labels").mkdir()
    assert Registry([tmp_path], "tiny").names() == ("beside", "tiny")
    assert networks_in(NETWORKS.parent) == networks_in(NETWORKS) == NETWORKS


def test_a_model_that_is_named_networks(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, "networks")
    assert Registry([tmp_path], "networks").names() == ("networks",)
    assert networks_in(tmp_path) == tmp_path


def test_missing_model_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Registry([tmp_path / "nowhere"], "tiny")


def test_no_models_at_all_is_an_empty_registry(tmp_path: Path) -> None:
    registry = Registry([tmp_path], "tiny")
    registry.load()
    assert registry.entries == ()
    with pytest.raises(UnknownModel, match=r"\(allowed: none\)"):
        registry.get()
