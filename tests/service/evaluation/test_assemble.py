"""From runs to evaluations: distinct pictures, label sets, detectors, what is left out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidDataset
from service.evaluation.assemble import Assembled, assemble
from service.evaluation.choose import Chosen, choose
from service.evaluation.dataset import Box, Dataset
from service.evaluation.figures import unpack_bits
from service.evaluation.progress import Progress
from service.evaluation.readers.folders import read_folders
from service.evaluation.result import from_json, to_json
from service.evaluation.run import Runner
from service.evaluation.store import summarise
from service.inference.registry import Registry
from tests.helpers.detectors import save_detector
from tests.helpers.networks import save_network
from tests.service.evaluation.colours import (
    COLOURS,
    FAILS_ON_DARK,
    picture,
    png,
    save_colours,
    save_pictures,
    save_reds,
)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Return a folder with a good and a bad classifier, and a detector."""
    save_colours(tmp_path / "zoo", "good")
    save_reds(tmp_path / "zoo", "reds")
    save_detector(tmp_path / "zoo", "boxes")
    return tmp_path / "zoo"


def assembled(
    zoo: Path,
    dataset: Dataset,
    *,
    mapping: dict[str, str | int] | None = None,
    names: Sequence[str] | None = None,
    corruptions: bool = False,
) -> Assembled:
    chosen: Chosen = choose(Registry((zoo,), "good"), dataset, mapping or {}, names)
    with Progress(zoo.parent / "kept", dataset.path) as progress:
        runner = Runner(
            dataset, chosen.subjects, progress, threads=2, max_pixels=1_000_000, corruptions=corruptions
        )
        run = runner.run(lambda _: None, threading.Event())
        return assemble(dataset, mapping or {}, chosen, runner, run, started_at=datetime.now(UTC))


@pytest.mark.slow
def test_figures_are_those_of_the_pictures(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "data", 20)
    evaluation = assembled(zoo, read_folders(tmp_path / "data"), corruptions=True).evaluation
    assert from_json(to_json(evaluation)) == evaluation
    assert (evaluation.data.pictures, evaluation.data.n) == (60, 60)
    good, reds = evaluation.model("good"), evaluation.model("reds")
    assert good is not None
    assert reds is not None
    assert good.classification is not None
    assert reds.classification is not None
    assert good.classification.top1.value > 0.8
    assert reds.classification.top1.value < 0.5
    assert evaluation.verdict("good", "reds") == "better"
    assert good.corruptions is not None
    assert good.corruptions.n == 60
    assert good.corruptions.corruptions["jpeg"][0] > reds.corruptions.corruptions["jpeg"][0]  # type: ignore[union-attr]
    assert {each.name for each in good.classification.per_class} == set(COLOURS)


def test_same_bytes_count_once_and_not_at_all_under_two_labels(tmp_path: Path, zoo: Path) -> None:
    data = tmp_path / "data"
    contents = save_pictures(data, 4)
    (data / "red/copy.png").write_bytes(contents["red/0.png"])
    (data / "red/other.png").write_bytes(contents["blue/1.png"])
    evaluation = assembled(zoo, read_folders(data)).evaluation
    assert (evaluation.data.pictures, evaluation.data.n) == (14, 11)
    assert [(each.picture, each.same_as) for each in evaluation.data.duplicates] == [
        ("red/copy.png", "red/0.png")
    ]
    (conflict,) = evaluation.data.conflicts
    assert conflict.pictures == ("blue/1.png", "red/other.png")
    assert conflict.truths == ("blue", "red")
    assert {each.name: each.n for each in evaluation.data.classes} == {"red": 4, "green": 4, "blue": 3}


def test_id_depends_on_bytes_and_labels_alone(tmp_path: Path, zoo: Path) -> None:
    data = tmp_path / "data"
    save_pictures(data, 3)
    first = assembled(zoo, read_folders(data)).evaluation.id
    (data / "red/0.png").rename(data / "red/later.png")
    data.rename(tmp_path / "moved")
    assert assembled(zoo, read_folders(tmp_path / "moved")).evaluation.id == first
    (tmp_path / "moved/red/text.png").write_text("no picture")
    changed = assembled(zoo, read_folders(tmp_path / "moved")).evaluation
    assert changed.id == first
    assert [each.picture for each in changed.data.unreadable] == ["red/text.png"]
    mapping: dict[str, str | int] = {"red": "blue"}
    assert assembled(zoo, read_folders(tmp_path / "moved"), mapping=mapping).evaluation.id != first
    (tmp_path / "moved/red/later.png").rename(tmp_path / "moved/blue/later.png")
    assert assembled(zoo, read_folders(tmp_path / "moved")).evaluation.id != first


def test_each_label_set_counts_its_own_pictures(tmp_path: Path, zoo: Path) -> None:
    save_network(zoo, "warm", classes=3, names=("red", "green", "orange"))
    save_pictures(tmp_path / "data", 3)
    evaluation = assembled(zoo, read_folders(tmp_path / "data")).evaluation
    sets = {each.labels: each for each in evaluation.label_sets}
    assert (sets["colours"].classes, sets["colours"].of, sets["colours"].n) == (3, 3, 9)
    warm = sets["warm-labels"]
    assert (warm.classes, warm.of, warm.n) == (2, 3, 6)
    assert unpack_bits(warm.pictures, 9).sum() == 6
    assert [(each.name, each.pictures) for each in warm.unmatched] == [("blue", 3)]
    assert any("2 of the 3 classes of warm-labels" in note for note in evaluation.data.notes)
    assert {(pair.first, pair.second) for pair in evaluation.pairs} == {("good", "reds")}


def test_classes_are_counted_by_the_pictures_that_count(tmp_path: Path, zoo: Path) -> None:
    """A broken file, a copy and a picture under two labels are no pictures of their class."""
    data = tmp_path / "data"
    contents = save_pictures(data, 2)
    (data / "red/1.png").write_text("no picture")
    (data / "green/1.png").write_bytes(contents["green/0.png"])
    (data / "blue/1.png").unlink()
    (data / "green/2.png").write_bytes(contents["blue/0.png"])
    (data / "unicorn").mkdir()
    evaluation = assembled(zoo, read_folders(data)).evaluation
    assert {each.name: each.n for each in evaluation.data.classes} == {
        "red": 1, "green": 1, "blue": 0, "unicorn": 0,
    }  # fmt: skip
    assert evaluation.data.notes == (
        "2 classes have no usable picture: blue, unicorn",
        "2 classes have one usable picture, which proves little: green, red",
        "2 of the 3 classes of colours have pictures here: this is not a colours accuracy and cannot be "
        "compared with one",
    )
    assert (evaluation.label_sets[0].classes, summarise(evaluation).classes) == (2, 2)


def test_failed_model_is_left_out_of_the_result(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "data", 2)
    (tmp_path / "data/red/dark.png").write_bytes(png(np.zeros((16, 16, 3))))
    save_colours(zoo, "fragile", tail=FAILS_ON_DARK)
    result = assembled(zoo, read_folders(tmp_path / "data"))
    assert [model.name for model in result.evaluation.models] == ["good", "reds"]
    assert list(result.left_out) == ["fragile"]
    with pytest.raises(InvalidDataset, match=r"no model can be evaluated \(fragile: failed on red/dark"):
        assembled(zoo, read_folders(tmp_path / "data"), names=["fragile"])


def test_no_usable_picture(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "data", 1)
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_text("no picture")
    with pytest.raises(InvalidDataset, match=r"^data: none of 3 pictures can be used, the first: blue/0"):
        assembled(zoo, read_folders(tmp_path / "data"))


def with_boxes(folder: Path, *boxes: Box, declared: tuple[int, int] | None = None) -> Dataset:
    """Return a data set of detection: each picture is red within a box, and has `boxes` too."""
    save_pictures(folder, 0)
    for seed in range(6):
        pixels = np.full((64, 64, 3), 128)
        pixels[24:28, 4 * seed + 4 : 4 * seed + 8] = (250, 5, 5)  # the cell in the middle of the box
        (folder / "red" / f"{seed}.png").write_bytes(png(pixels))
    found = read_folders(folder)
    return replace(
        found,
        task="object-detection",
        kind="coco",
        class_names=("red", "blue", "unicorn"),
        pictures=tuple(
            replace(
                each,
                class_name=None,
                boxes=(Box("red", 4 * seed, 20, 4 * seed + 12, 32), *boxes),
                declared=declared,
            )
            for seed, each in enumerate(found.pictures)
        ),
    )


def test_detectors(tmp_path: Path, zoo: Path) -> None:
    dataset = with_boxes(tmp_path / "data", Box("unicorn", 0, 0, 5, 5))
    evaluation = assembled(zoo, dataset).evaluation
    (model,) = evaluation.models
    assert model.detection is not None
    assert model.detection.ap50 > 0.9
    assert model.detection.objects == 6
    (labels,) = evaluation.label_sets
    assert (labels.labels, labels.classes, labels.n) == ("colours", 1, 6)
    assert [(each.name, each.pictures) for each in labels.unmatched] == [("unicorn", 6)]
    assert {each.name: each.n for each in evaluation.data.classes} == {"red": 6, "blue": 0, "unicorn": 6}


def test_boxes_for_pictures_of_another_size(tmp_path: Path, zoo: Path) -> None:
    dataset = with_boxes(tmp_path / "data", declared=(64, 65))
    first = dataset.pictures[0]
    dataset = replace(dataset, pictures=(replace(first, declared=(64, 64)), *dataset.pictures[1:]))
    evaluation = assembled(zoo, dataset).evaluation
    assert evaluation.data.n == 1
    assert {each.reason for each in evaluation.data.unreadable} == {"annotated as 64 x 65, is 64 x 64 pixels"}


def test_detector_without_an_object_to_find(tmp_path: Path, zoo: Path) -> None:
    dataset = with_boxes(tmp_path / "data")
    crowd = Box("red", 0, 0, 9, 9, crowd=True)
    crowded = tuple(replace(each, boxes=(crowd,)) for each in dataset.pictures)
    with pytest.raises(InvalidDataset, match=r"\(boxes: no object of its classes is annotated\)"):
        assembled(zoo, replace(dataset, pictures=crowded))


def test_same_picture_with_other_boxes_is_a_conflict(tmp_path: Path, zoo: Path) -> None:
    dataset = with_boxes(tmp_path / "data")
    first, second, *others = dataset.pictures
    second.path.write_bytes(first.path.read_bytes())
    dataset = replace(dataset, pictures=(first, second, *others))
    evaluation = assembled(zoo, dataset).evaluation
    assert evaluation.data.conflicts[0].truths == ("1 red", "1 red")
    assert evaluation.data.n == 4


def test_picture_that_no_model_knows_belongs_to_the_data(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "data", 2)
    (tmp_path / "data/unicorn").mkdir()
    (tmp_path / "data/unicorn/0.png").write_bytes(picture("red", 77))
    (tmp_path / "data/unicorn/1.png").write_text("no picture")
    evaluation = assembled(zoo, read_folders(tmp_path / "data")).evaluation
    assert evaluation.data.n == 7
    assert [each.picture for each in evaluation.data.unreadable] == ["unicorn/1.png"]
    assert evaluation.label_sets[0].n == 6
