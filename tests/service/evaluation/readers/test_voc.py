"""Data sets of Pascal VOC."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import InvalidDataset
from service.evaluation.dataset import Box, Dataset
from service.evaluation.readers import voc as voc_file
from service.evaluation.readers.read import read_dataset
from tests.service.evaluation.readers.files import picture, pictures, voc, voc_object, written

BOMB = (
    '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation><filename>&c;</filename></annotation>'
)


def problems(data: Dataset) -> list[tuple[str, str]]:
    return [(problem.key, problem.reason) for problem in data.problems]


def test_boxes_are_continuous(tmp_path: Path) -> None:
    pictures(tmp_path, "JPEGImages/a.png", "JPEGImages/b.png")
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    difficult = "<difficult>1</difficult>"
    objects = [voc_object(corners=(1, 1, 8, 6), more=part), voc_object("dog", (2.5, 3, 4, 9), difficult)]
    voc(tmp_path / "Annotations/a.xml", *objects)
    voc(tmp_path / "Annotations/b.xml", filename="b.png", size=(0, 0))
    data = read_dataset(tmp_path)
    assert (data.kind, data.task, data.class_names) == ("voc", "object-detection", ("cat", "dog"))
    first, second = data.pictures
    assert (first.key, first.declared) == ("JPEGImages/a.png", (8, 6))
    assert first.boxes == (Box("cat", 0, 0, 8, 6), Box("dog", 1.5, 2, 4, 9, difficult=True))
    assert (second.boxes, second.declared) == ((), None)
    assert not data.problems


def test_a_coordinate_below_one_counts_from_zero(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    voc(tmp_path / "a.xml", voc_object(corners=(2, 3, 4, 6)))
    voc(tmp_path / "b.xml", voc_object(corners=(0, 3, 4, 6)), filename="b.png")
    data = read_dataset(tmp_path)
    assert [picture.boxes for picture in data.pictures] == [
        (Box("cat", 2, 3, 4, 6),),
        (Box("cat", 0, 3, 4, 6),),
    ]
    assert data.notes == ("a coordinate is below 1, so all count from 0, not from 1 as in Pascal VOC",)


def test_objects_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    voc(
        tmp_path / "a.xml",
        voc_object(),
        voc_object(),
        voc_object(" "),
        "<object><name>dog</name></object>",
        "<object><name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>4</xmax></bndbox></object>",
        voc_object(corners=(2, 3, "nan", "x")),
        voc_object(corners=(4, 3, 3, 6)),
        voc_object(corners=(9, 3, 12, 6)),
    )
    data = read_dataset(tmp_path)
    assert data.pictures[0].boxes == (Box("cat", 1, 2, 4, 6),)
    assert data.class_names == ("cat", "dog")
    assert problems(data) == [
        ("a.xml: object 2", "is there already; counts once"),
        ("a.xml: object 3", "no name"),
        ("a.xml: object 4", "no bndbox"),
        ("a.xml: object 5", "no finite number as ymax"),
        ("a.xml: object 6", "no finite number as xmax, ymax"),
        ("a.xml: object 7", "box of 0 x 4 pixels"),
        ("a.xml: object 8", "box outside of the picture, 8, 2 to 12, 6"),
    ]


def test_annotations_and_pictures_that_do_not_belong_together(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "without.png")
    voc(tmp_path / "a.xml", voc_object())
    voc(tmp_path / "b.xml", voc_object(), filename="renamed.png")
    voc(tmp_path / "c.xml", voc_object(), filename="A.PNG")
    voc(tmp_path / "gone.xml", voc_object(), filename="gone.png")
    voc(tmp_path / "leaves.xml", filename="../../a.png")
    written(tmp_path / "html.xml", "<html/>")
    written(tmp_path / "cut.xml", "<annotation><filename>a.png")
    written(tmp_path / "empty.xml", "")
    written(tmp_path / ".hidden.xml", "")
    data = read_dataset(tmp_path)
    assert [picture.key for picture in data.pictures] == ["a.png", "b.png"]
    assert [(key, reason.split(" (")[0]) for key, reason in problems(data)] == [
        ("cut.xml", "not valid XML, no element found: line 1, column 27"),
        ("empty.xml", "not valid XML, no element found: line 1, column 0"),
        ("html.xml", "begins with html"),
        ("c.xml", "annotates a.png once more; the first counts"),
        ("gone.xml", "gone.png: no such file, 1 object"),
        ("leaves.xml", "../../a.png: leads out of the folder of the data set"),
    ]
    assert data.notes == ("1 picture without an annotation beside the annotated ones, left out: without.png",)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        '<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>',
    ],
    ids=["growing entities", "external document type", "external entity"],
)
def test_document_types_are_refused(text: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "evil.png")
    voc(tmp_path / "a.xml", voc_object())
    written(tmp_path / "evil.xml", text)
    data = read_dataset(tmp_path)
    assert problems(data) == [
        ("evil.xml", "has a document type, which is not read (allowed: XML without <!DOCTYPE>)")
    ]


@pytest.mark.slow
def test_deep_and_huge_files(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    voc(tmp_path / "a.xml", voc_object())
    written(tmp_path / "deep.xml", "<annotation>" + "<a>" * 500_000 + "</a>" * 500_000 + "</annotation>")
    with (tmp_path / "huge.xml").open("wb") as file:
        file.truncate(voc_file.MOST_BYTES + 1)
    data = read_dataset(tmp_path)
    assert problems(data)[0] == (
        "huge.xml",
        f"{voc_file.MOST_BYTES + 1} bytes (allowed: {voc_file.MOST_BYTES})",
    )
    assert len(data.pictures) == 1


def test_a_turned_photograph_has_its_declared_size(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", size=(6, 8))
    voc(tmp_path / "a.xml", voc_object())
    assert read_dataset(tmp_path).pictures[0].declared == (8, 6)


def test_folders_without_a_picture_or_an_object(tmp_path: Path) -> None:
    voc(tmp_path / "a.xml", voc_object())
    with pytest.raises(InvalidDataset, match=r"no picture is there: a\.xml: a\.png: no such file, 1 object"):
        read_dataset(tmp_path)
    pictures(tmp_path, "a.png")
    voc(tmp_path / "a.xml")
    with pytest.raises(InvalidDataset, match="no object in 1 pictures"):
        read_dataset(tmp_path)
