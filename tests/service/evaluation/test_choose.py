"""Which models a data set can judge, and why others are left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import InvalidDataset, InvalidParameter, UnknownModel
from service.evaluation.choose import choose
from service.evaluation.dataset import Box, Dataset, Picture
from service.evaluation.readers.folders import read_folders
from service.inference.registry import Registry
from tests.helpers.detectors import save_detector
from tests.helpers.networks import save_network
from tests.service.evaluation.colours import picture, save_colours, save_pictures


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Return a folder with classifiers of three label sets, a detector, and a broken model."""
    folder = tmp_path / "zoo"
    save_colours(folder, "one")
    save_colours(folder, "two")
    save_network(folder, "others", classes=3, names=("red", "violet", "pink"))
    save_network(folder, "fruits", classes=3, names=("apple", "pear", "plum"))
    save_network(folder, "same-name", classes=3, names=("blue", "green", "red"), labels="colours")
    save_detector(folder, "boxes")
    save_colours(folder, "broken")
    (folder / "broken/model.onnx").write_bytes(b"no network")
    return folder


def registry(zoo: Path) -> Registry:
    return Registry((zoo,), "one")


def test_all_models_that_know_two_classes(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "data", 1)
    chosen = choose(registry(zoo), read_folders(tmp_path / "data"), {})
    assert [subject.model.name for subject in chosen.subjects] == ["one", "two"]
    assert chosen.subjects[0].ids == {"blue": 2, "green": 1, "red": 0}
    assert list(chosen.matched) == ["colours"]
    broken = chosen.left_out.pop("broken")  # type: ignore[attr-defined]
    assert broken.startswith("model 'broken' cannot be served: its file model.onnx is not the one")
    assert chosen.left_out == {
        "fruits": "label set fruits-labels has none of the 3 classes",
        "others": "label set others-labels has only 1 of the 3 classes",
        "same-name": "its labels differ from those of broken, though both are called colours",
    }


def test_one_class_is_enough_where_there_is_one(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "data", 2, classes=("red",))
    chosen = choose(registry(zoo), read_folders(tmp_path / "data"), {})
    assert [subject.model.name for subject in chosen.subjects] == ["one", "others", "two"]
    assert chosen.left_out["fruits"] == "label set fruits-labels does not have the class"


def test_labels_that_have_few_of_the_classes_are_left_out(tmp_path: Path) -> None:
    zoo, classes = tmp_path / "zoo", ("ash", "elm", "fir", "oak", "yew")
    for name, known in (("most", classes), ("half", classes[:3]), ("few", classes[:2])):
        save_network(zoo, name, classes=len(known), names=known)
    for seed, name in enumerate(classes):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "picture.png").write_bytes(picture("red", seed))
    dataset = read_folders(tmp_path / "data")
    chosen = choose(Registry((zoo,), "most"), dataset, {})
    assert [subject.model.name for subject in chosen.subjects] == ["half", "most"]
    assert chosen.left_out == {
        "few": "label set few-labels has 2 of the 5 classes, most-labels has 5; --models NAME evaluates it"
    }
    named = choose(Registry((zoo,), "most"), dataset, {}, ["few", "most"])
    assert [subject.model.name for subject in named.subjects] == ["few", "most"]


def test_a_detector_needs_one_class(tmp_path: Path, zoo: Path) -> None:
    boxes = (Box("red", 1, 1, 8, 8), Box("zebra", 1, 1, 8, 8))
    (tmp_path / "data").mkdir()
    picture = Picture("a.png", tmp_path / "data/a.png", None, 1, 1, boxes=boxes)
    dataset = Dataset(
        "data", tmp_path / "data", "coco", "object-detection", ("red", "zebra"), (picture,), (), ()
    )
    chosen = choose(registry(zoo), dataset, {})
    assert [subject.model.name for subject in chosen.subjects] == ["boxes"]
    assert list(chosen.matched["colours"].ids) == ["red"]


def test_mapping_names_the_classes(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "data", 1)
    mapping: dict[str, str | int] = {"red": "apple", "green": "pear", "blue": "-"}
    chosen = choose(registry(zoo), read_folders(tmp_path / "data"), mapping)
    assert [(each.model.name, each.ids) for each in chosen.subjects] == [("fruits", {"red": 0, "green": 1})]


def test_named_models(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "data", 1)
    dataset = read_folders(tmp_path / "data")
    chosen = choose(registry(zoo), dataset, {}, ["others", "one", "one"])
    assert [subject.model.name for subject in chosen.subjects] == ["one", "others"]
    assert chosen.left_out == {}
    with pytest.raises(UnknownModel, match="model 'three': unknown"):
        choose(registry(zoo), dataset, {}, ["three"])
    with pytest.raises(InvalidParameter, match=r"^model 'fruits': label set fruits-labels has none of the 3"):
        choose(registry(zoo), dataset, {}, ["one", "fruits"])
    with pytest.raises(InvalidParameter, match=r"^model 'boxes': detects objects, but data has a class"):
        choose(registry(zoo), dataset, {}, ["boxes"])


def test_no_model_knows_the_classes(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "data", 1)
    for name in ("red", "green", "blue"):
        (tmp_path / "data" / name).rename(tmp_path / "data" / f"bottle {name}")
    with pytest.raises(InvalidDataset) as error:
        choose(registry(zoo), read_folders(tmp_path / "data"), {})
    assert error.value.detail == (
        "data: no model has its classes 'bottle blue', 'bottle green', 'bottle red' (allowed: labels of "
        "colours, fruits-labels, others-labels; --mapping FILE with lines CLASS = LABEL, such as "
        "bottle blue = blue, bottle green = green, bottle red = red)"
    )


def test_all_models_that_know_the_classes_are_damaged(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "data", 1)
    for name in ("one", "two"):
        (zoo / name / "model.onnx").write_bytes(b"no network")
    with pytest.raises(InvalidDataset) as error:
        choose(registry(zoo), read_folders(tmp_path / "data"), {})
    damaged = "cannot be served: its file model.onnx is not the one"
    start, *reasons = error.value.detail.split("model '")
    assert start == "data: no model that has its classes can be loaded ("
    assert [reason.partition(" that")[0] for reason in reasons] == [
        f"broken' {damaged}", f"one' {damaged}", f"two' {damaged}",
    ]  # fmt: skip
