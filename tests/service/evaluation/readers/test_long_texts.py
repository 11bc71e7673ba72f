"""Texts of annotations that are longer than a result may hold: the evaluation must not fail at its end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from service.evaluation.dataset import Dataset
from service.evaluation.readers.read import read_dataset
from tests.service.evaluation.readers.files import annotation, coco, pictures, voc, voc_object, written

LONG = "z" * 9000


def of_csv(folder: Path) -> Dataset:
    rows = f"path,label,{LONG}\na.png,cat,1\na.png,{LONG},1\n{LONG}.png,cat,1\n"
    return read_dataset(written(folder / "pets.csv", rows))


def of_coco(folder: Path) -> Dataset:
    annotations = [annotation(), annotation(image_id=LONG), annotation(category_id=LONG)]
    categories = [{"id": 7, "name": "cat"}, {"id": 8, "name": LONG}]
    images = [{"id": 1, "file_name": "a.png"}, {"id": LONG, "file_name": LONG}]
    return read_dataset(
        coco(folder / "pets.json", annotations=annotations, categories=categories, images=images)
    )


def of_voc(folder: Path) -> Dataset:
    voc(folder / "Annotations" / "a.xml", voc_object(), voc_object(LONG))
    voc(folder / "Annotations" / "b.xml", voc_object(), filename=LONG)
    return read_dataset(folder)


@pytest.mark.parametrize("read", [of_csv, of_coco, of_voc])
def test_long_texts_are_cut_and_long_names_listed(read: object, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    dataset = read(tmp_path)  # type: ignore[operator]
    assert dataset.class_names == ("cat",)
    assert len(dataset.pictures) == 1
    assert dataset.problems
    texts = [text for problem in dataset.problems for text in (problem.key, problem.reason)]
    assert max(map(len, [*texts, *dataset.notes])) <= 1000
    assert [text for text in texts if "with 9000 characters (allowed: 500)" in text]


def test_many_empty_columns_take_no_longer(tmp_path: Path) -> None:
    """Spreadsheets write up to 16 384 columns; each was taken away by itself, in 1.8 s for 2000 of them."""
    pictures(tmp_path, "a.png")
    rows = "a.png,cat" + "," * 16_000 + "\n"
    file = written(tmp_path / "wide.csv", "path,label" + "," * 16_000 + "\n" + rows * 40)
    start = time.perf_counter()
    dataset = read_dataset(file)
    assert [picture.class_name for picture in dataset.pictures] == ["cat"]
    assert time.perf_counter() - start < 5
