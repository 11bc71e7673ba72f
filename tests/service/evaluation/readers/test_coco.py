"""Data sets of COCO's JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidDataset
from service.evaluation.dataset import Box, Dataset
from service.evaluation.readers import coco as coco_file
from service.evaluation.readers.read import read_dataset
from tests.service.evaluation.readers.files import annotation, coco, pictures, written


def problems(data: Dataset) -> list[tuple[str, str]]:
    return [(problem.key, problem.reason) for problem in data.problems]


def test_boxes_are_in_pixels_of_the_picture(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    images = [
        {"id": 1, "file_name": "a.png", "width": 8, "height": 6},
        {"id": "b", "file_name": "b.png"},
    ]
    given = [
        annotation(area=4.5, segmentation=[[1, 2, 4, 2, 4, 5]]),
        annotation(category_id=9, iscrowd=1, bbox=[-1, 0, 20, 6]),
    ]
    data = read_dataset(coco(tmp_path / "own.json", images=images, annotations=given))
    assert (data.kind, data.task, data.class_names) == ("coco", "object-detection", ("cat", "dog"))
    first, second = data.pictures
    assert (first.key, first.class_name, first.declared) == ("a.png", None, (8, 6))
    assert first.boxes == (
        Box("cat", 1, 2, 4, 5.5, area=4.5),
        Box("dog", -1, 0, 19, 6, crowd=True),
    )
    assert (second.key, second.boxes, second.declared) == ("b.png", (), None)
    assert data.counts() == {"cat": 1, "dog": 1}
    assert not data.problems


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bbox": [1, 2, float("nan"), 3]}, "bbox is not 4 finite numbers"),
        ({"bbox": [1, 2, float("inf"), 3]}, "bbox is not 4 finite numbers"),
        ({"bbox": [1, 2, 3]}, "bbox is not 4 finite numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "bbox is not 4 finite numbers"),
        ({"bbox": [1, 2, 3, True]}, "bbox is not 4 finite numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "bbox is not 4 finite numbers"),
        ({"bbox": {"x": 1}}, "bbox is not 4 finite numbers"),
        ({"bbox": None}, "no bbox (allowed: bbox [x, y, width, height])"),
        (
            {"bbox": [], "segmentation": {"counts": "abc", "size": [6, 8]}},
            "no bbox but an outline (segmentation) (allowed: bbox [x, y, width, height])",
        ),
        ({"bbox": [1, 2, 0, 3]}, "box of 0 x 3 pixels"),
        ({"bbox": [3, 2, -1, 3]}, "box of -1 x 3 pixels"),
        ({"bbox": [8, 2, 3, 3]}, "box outside of the picture, 8, 2 to 11, 5"),
        ({"bbox": [-4, 2, 3, 3]}, "box outside of the picture, -4, 2 to -1, 5"),
        ({"category_id": 8}, "category 8 is not declared"),
        ({"category_id": None}, "no category_id"),
        ({"category_id": [7]}, "no category_id"),
        ({}, "is there already; counts once"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_left_out(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    pictures(tmp_path, "a.png")
    data = read_dataset(coco(tmp_path / "own.json", annotations=[annotation(), annotation(**changes)]))
    ((key, reason),) = problems(data)
    assert key == "a.png: annotations[1]"
    assert reason.startswith(words)
    assert data.pictures[0].boxes == (Box("cat", 1, 2, 4, 5.5),)


def test_what_does_not_belong_together_is_listed(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "without.png")
    images = [
        {"id": 1, "file_name": "a.png", "width": 0, "height": "6"},
        {"id": 2, "file_name": "gone.png"},
        {"id": 1, "file_name": "b.png"},
        {"id": 3, "file_name": ".\\A.png"},
        {"id": 4},
        {"file_name": "a.png"},
        5,
        {"id": 6, "file_name": "../a.png"},
    ]
    given = [annotation(), annotation(image_id=2), annotation(image_id=2), annotation(image_id=99), 7, {}]
    categories = [{"id": 7, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 8}, {"name": "x"}, None]
    data = read_dataset(coco(tmp_path / "own.json", images=images, annotations=given, categories=categories))
    assert [picture.key for picture in data.pictures] == ["a.png"]
    assert data.pictures[0].declared is None
    assert data.class_names == ("cat",)
    assert [(key, reason.split(" (")[0]) for key, reason in problems(data)] == [
        ("categories[1]", "category 7 is declared twice; the first counts"),
        ("categories[2]", "no name of category 8"),
        ("categories[3]", "no id"),
        ("categories[4]", "no id"),
        ("gone.png", "no such file, 2 annotations"),
        ("b.png", "has the id 1 of another picture; left out"),
        (".\\A.png", "is the file of picture 1 already; the first counts"),
        ("images[4]", "no file_name"),
        ("images[5]", "no id"),
        ("images[6]", "no id"),
        ("../a.png", "leads out of the folder of the data set"),
        ("annotations[4]", "no image_id"),
        ("annotations[5]", "no image_id"),
        ("image_id 99", "no such picture, 1 annotation"),
    ]
    assert data.notes == (
        "2 pictures without an annotation beside the annotated ones, left out: b.png, without.png",
    )


@pytest.mark.parametrize(
    "place", ["annotations/instances_val.json", "val/_annotations.coco.json", "own.json"]
)
def test_the_usual_places_of_the_file(place: str, tmp_path: Path) -> None:
    pictures(tmp_path / "val", "a.png")
    path = coco(tmp_path / place)
    folder = {"annotations": tmp_path, "val": tmp_path / "val"}.get(path.parent.name, path)
    for given in (path, folder):
        assert [picture.path for picture in read_dataset(given).pictures] == [tmp_path / "val/a.png"]
    assert [picture.key for picture in read_dataset(path, tmp_path / "val").pictures] == ["a.png"]


def test_one_of_several_files_must_be_named(tmp_path: Path) -> None:
    pictures(tmp_path, "val/a.png")
    coco(tmp_path / "annotations/instances_train.json")
    coco(tmp_path / "annotations/instances_val.json")
    coco(tmp_path / "annotations/captions_val.json")
    words = "2 files of annotations .allowed: one of them: annotations/instances_train.json, annotations/inst"
    with pytest.raises(InvalidDataset, match=words):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON in line 1"),
        ("{", "not valid JSON in line 1"),
        ("[" * 100_000, "not valid JSON"),
        ('{"images": ' + "9" * 10_000 + "}", "not valid JSON"),
        ("[]", "not COCO's file of instances, without a list of images, annotations, categories"),
        ('{"images": [], "annotations": {}, "categories": []}', "without a list of annotations"),
        ('{"images": [], "annotations": [], "categories": []}', "no picture is there"),
        (
            '{"images": [{"id": 1, "file_name": "gone.png"}], "annotations": [], "categories": []}',
            "no picture is there: gone.png: no such file",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}',
            "no object in 1 pictures",
        ),
    ],
)
def test_files_that_are_no_data_set(text: str, words: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    with pytest.raises(InvalidDataset, match=f"^--data own.json: .*{words}"):
        read_dataset(written(tmp_path / "own.json", text))


def test_other_encodings(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    text = coco(tmp_path / "own.json").read_text()
    for encoding in ("utf-8-sig", "utf-16"):
        assert read_dataset(written(tmp_path / "own.json", text, encoding)).pictures
    (tmp_path / "own.json").write_bytes(b'{"images": "\xff"}')
    with pytest.raises(InvalidDataset, match="not text, byte 0xff at 12 is not utf-8"):
        read_dataset(tmp_path / "own.json")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "own.json").open("wb") as file:
        file.truncate(coco_file.MOST_BYTES + 1)
    with pytest.raises(InvalidDataset, match=f"bytes .allowed: {coco_file.MOST_BYTES}"):
        read_dataset(tmp_path / "own.json")
