"""A model is replaced while it is served: the folder decides, and no request notices."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog

from models.zoo.card import read_card
from service.errors import ModelUnavailable, NoExactMap, UnknownModel
from service.inference.explain import Explainer, ExplainPlan
from service.inference.pool import CorePool, Deadline
from service.inference.registry import FOLDER_CHANGING, Registry
from service.own_models.watch import ModelWatcher
from tests.conftest import TINY_CLASSES, make_tiny_model
from tests.helpers.swap import replace_model, store_classifier, versioned_model
from tests.helpers.until import until


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A zoo with the tiny models `one` and `two`."""
    make_tiny_model(tmp_path / "zoo", "one", seed=1)
    make_tiny_model(tmp_path / "zoo", "two", seed=2)
    return tmp_path / "zoo"


@pytest.fixture
def registry(zoo: Path, tmp_path: Path) -> Registry:
    """A loaded registry of the zoo, whose added models are in `data/models`, which does not exist."""
    loaded = Registry([zoo], "one", added=tmp_path / "data/models")
    loaded.load()
    return loaded


@pytest.fixture
def watched(registry: Registry) -> Iterator[Registry]:
    """The registry with a watcher that looks ten times as often as the service's."""
    watcher = ModelWatcher(registry, every_s=0.05)
    watcher.start()
    yield registry
    watcher.close()


def test_a_replaced_folder_serves_its_new_version(watched: Registry, zoo: Path) -> None:
    other = watched.get("two")
    sha256 = replace_model(zoo / "one", seed=3, labels="new-10")
    until(lambda: watched.get("one").version == sha256, "the new version is served")
    assert watched.get().card.labels == "new-10"
    assert watched.get("one").typical_ns > 0
    assert watched.get("two") is other


def test_an_appearing_folder_is_served_and_a_removed_one_unknown(watched: Registry, zoo: Path) -> None:
    make_tiny_model(zoo, "three", seed=3)
    until(lambda: "three" in watched.names(), "the folder is seen")
    assert watched.get("three").name == "three"
    shutil.rmtree(zoo / "three")
    until(lambda: "three" not in watched.names(), "the folder is missed")
    with pytest.raises(UnknownModel):
        watched.get("three")


def test_the_folder_of_added_models_appears_later(watched: Registry, tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "data/models", "added", seed=3)
    until(lambda: "added" in watched.names(), "the folder is seen")
    assert watched.get("added").name == "added"
    shutil.rmtree(tmp_path / "data")
    until(lambda: "added" not in watched.names(), "the folder is missed")


@pytest.mark.slow
def test_a_service_notices_within_two_seconds(registry: Registry, zoo: Path) -> None:
    """As the service looks: every half second, and at the second look that finds the same."""
    changed = threading.Event()
    watcher = ModelWatcher(registry)
    watcher.start()
    sha256 = replace_model(zoo / "one", seed=3)

    def wait() -> None:
        until(lambda: registry.get("one").version == sha256, "the new version is served")
        changed.set()

    threading.Thread(target=wait, daemon=True).start()
    in_time = changed.wait(2)
    watcher.close()
    assert in_time


def test_the_old_session_goes_with_its_last_request(registry: Registry, zoo: Path) -> None:
    request = registry.get("one")
    session = weakref.ref(request.session)
    replace_model(zoo / "one", seed=3)
    registry.refresh("one")
    image = np.zeros((1, 3, 32, 32), np.float32)
    assert registry.get("one").version != request.version
    assert request.session.run(image)["logits"].shape == (1, TINY_CLASSES)
    del request
    # not garbage, which another thread that is collecting could keep
    until(lambda: session() is None, "the old session is gone")


REPLACEMENTS: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "half a copy": (
        lambda folder, new: (folder / "model.onnx").write_bytes(new[:1000]),
        "it is cut off: 1000",
    ),
    "no card": (lambda folder, _: (folder / "card.json").unlink(), "it has no card.json"),
    "no file": (lambda folder, _: (folder / "model.onnx").unlink(), "its file model.onnx is missing"),
    "half a card": (lambda folder, _: (folder / "card.json").write_text("{"), "card.json is not valid"),
    "a page": (lambda folder, _: (folder / "model.onnx").write_text("<!doctype html><p>"), "HTML"),
    "few labels": (lambda folder, _: (folder / "labels.txt").write_text("one\n"), "names 1 classes"),
}


@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_a_broken_replacement_leaves_the_old_version(kind: str, registry: Registry, zoo: Path) -> None:
    old = registry.get("one")
    break_it, reason = REPLACEMENTS[kind]
    new = (make_tiny_model(zoo.parent, "aside", seed=3) / "model.onnx").read_bytes()
    break_it(zoo / "one", new)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            registry.refresh()
    entry = registry.entry("one")
    assert entry.model is old
    assert entry.card == old.card
    assert entry.reason is None
    assert reason in (entry.refused or "")
    assert str(zoo) not in (entry.refused or "")
    assert [line["model"] for line in lines] == ["one"]  # once per reason
    sha256 = replace_model(zoo / "one", seed=4)
    registry.refresh("one")
    assert registry.entry("one").refused is None
    assert registry.get("one").version == sha256


def test_a_folder_that_keeps_changing_is_not_read(registry: Registry, zoo: Path) -> None:
    old = registry.get("one")
    for size in range(1, 7):
        (zoo / "one/model.onnx").write_bytes(b"\0" * size)
        registry.refresh()
    assert registry.get("one") is old
    assert registry.entry("one").refused == FOLDER_CHANGING
    sha256 = replace_model(zoo / "one", seed=4)
    registry.refresh()
    registry.refresh()
    assert (registry.get("one").version, registry.entry("one").refused) == (sha256, None)


def test_a_folder_that_is_missing_at_one_look_is_not_gone(registry: Registry, zoo: Path) -> None:
    """Between the two renames of a replacement there is no folder of that name."""
    (zoo / "one").rename(zoo / ".one")
    registry.refresh()
    assert registry.get("one").name == "one"
    (zoo / ".one").rename(zoo / "one")
    registry.refresh()
    registry.refresh()
    assert registry.get("one").name == "one"


def test_touched_files_are_no_new_version(registry: Registry, zoo: Path) -> None:
    old = registry.get("one")
    os.utime(zoo / "one/model.onnx", (1, 1))
    registry.refresh()
    registry.refresh()
    assert registry.get("one") is old


def test_new_labels_alone_are_taken_in(registry: Registry, zoo: Path) -> None:
    labels = [f"new {number}" for number in range(TINY_CLASSES)]
    (zoo / "one/labels.txt").write_text("\n".join(labels))
    registry.refresh("one")
    assert list(registry.get("one").labels) == labels


def test_a_folder_that_is_being_written_is_no_model(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, "one")
    (tmp_path / "one").rename(tmp_path / ".one.tmp-4711")
    assert Registry([tmp_path], "one").names() == ()


def test_of_two_folders_with_one_name_the_other_takes_over(
    registry: Registry, zoo: Path, tmp_path: Path
) -> None:
    added = make_tiny_model(tmp_path / "data/models", "one", seed=5)
    registry.refresh("one")
    assert registry.entry("one").folder == zoo / "one"
    shutil.rmtree(zoo / "one")
    registry.refresh("one")
    assert registry.entry("one").folder == added
    assert registry.get("one").version == read_card(added).file.sha256


def test_a_broken_model_that_is_mended_is_served(zoo: Path) -> None:
    (zoo / "one/model.onnx").rename(zoo / "model.onnx")
    registry = Registry([zoo], "one")
    registry.load()
    with pytest.raises(ModelUnavailable, match=r"model\.onnx is missing"):
        registry.get()
    (zoo / "model.onnx").rename(zoo / "one/model.onnx")
    registry.refresh()
    registry.refresh()
    assert registry.get().name == "one"


def test_a_zoo_that_cannot_be_listed_keeps_its_models(registry: Registry, zoo: Path) -> None:
    kept = registry.get("one")
    elsewhere = zoo.rename(zoo.with_name("elsewhere"))
    zoo.symlink_to(zoo)  # a loop: listing it is an OSError, for root too
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            registry.refresh()
    assert registry.get("one") is kept
    assert len(lines) == 1
    zoo.unlink()
    elsewhere.rename(zoo)
    registry.refresh()
    assert registry.get("one") is kept


def test_an_explanation_stays_with_its_version(zoo: Path, png: bytes) -> None:
    """The classifier's file is another version's by name when it is first needed."""
    before = store_classifier(zoo / "one")
    registry = Registry([zoo], "one")
    registry.load()
    pool = CorePool(1, 4)
    explainer = Explainer(registry, pool, max_pixels=10**6)

    async def bias_of(plan: ExplainPlan) -> float:
        deadline = Deadline.after(30)
        return (await explainer.run(plan, png, deadline, picture=False, over_image=False)).bias

    plan = explainer.plan(registry.get(), 0)
    replace_model(zoo / "one", seed=7, versioned=True)
    assert asyncio.run(bias_of(plan)) == pytest.approx(before)
    registry.refresh("one")
    after = asyncio.run(bias_of(explainer.plan(registry.get(), 0)))
    assert after == pytest.approx(store_classifier(zoo / "one"))
    assert after != pytest.approx(before)
    pool.close()


def test_a_classifier_that_comes_after_its_card_is_read(zoo: Path, png: bytes) -> None:
    """A folder that is copied file by file, each by a rename: card and network first."""
    first = store_classifier(zoo / "one")
    stale = (zoo / "one/head.npz").read_bytes()
    new = versioned_model(zoo.parent / "aside", "one", seed=7)
    registry = Registry([zoo], "one")
    registry.load()
    pool = CorePool(1, 4)
    explainer = Explainer(registry, pool, max_pixels=10**6)

    async def bias_of() -> float:
        plan = explainer.plan(registry.get(), 0)
        deadline = Deadline.after(30)
        return (await explainer.run(plan, png, deadline, picture=False, over_image=False)).bias

    for name in ("model.onnx", "labels.txt", "card.json"):
        (new / name).replace(zoo / "one" / name)
    registry.refresh("one")
    assert (zoo / "one/head.npz").read_bytes() == stale
    with pytest.raises(NoExactMap, match="is not the one that the card describes"):
        asyncio.run(bias_of())
    (new / "head.npz").replace(zoo / "one/head.npz")
    registry.refresh()
    registry.refresh()
    after = asyncio.run(bias_of())
    assert after == pytest.approx(store_classifier(zoo / "one"))
    assert after != pytest.approx(first)
    pool.close()
