"""Folders of pictures and the classes that they show."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import RefusedModel
from service.own_models.sources.pictures import labelled_pictures

LABELS = ("tench, Tinca tinca", "Egyptian cat", "crane", "crane", "dog")


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / "p" / name).mkdir(parents=True)
        (folder / "p" / name / "one.png").write_bytes(b"")
        (folder / "p" / name / ".hidden").write_bytes(b"")
    return folder / "p"


def mapping(folder: Path, text: str) -> Path:
    (folder / "mapping.txt").write_text(text)
    return folder / "mapping.txt"


def test_folders_match_labels_by_name(tmp_path: Path) -> None:
    images = pictures(tmp_path, "Tinca-tinca", "egyptian_cat", "DOG")
    found = labelled_pictures(images, LABELS, "birds", None)
    assert [(picture.path.parent.name, picture.class_id) for picture in found] == [
        ("DOG", 4), ("Tinca-tinca", 0), ("egyptian_cat", 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["birds = 3\n# comment\n\nhund = dog\nrest = -\n", '{"birds": 3, "hund": "dog", "rest": "-"}']
)
def test_a_mapping_names_labels_and_class_ids(text: str, tmp_path: Path) -> None:
    images = pictures(tmp_path, "birds", "hund", "rest")
    found = labelled_pictures(images, LABELS, "birds", mapping(tmp_path, text))
    assert [picture.class_id for picture in found] == [3, 4]


@pytest.mark.parametrize(
    ("names", "text", "words"),
    [
        (["crane"], None, r"match no single label: crane \(2 labels\)"),
        (["horse"], None, r"match no single label: horse \(0 labels\)"),
        ([], None, "no pictures"),
        (["dog"], "god = dog", "no such folder in --images: god"),
        (["dog"], "dog", "line 1 is not FOLDER = LABEL"),
        (["dog"], '{"dog": []}', "neither a label nor a class id"),
    ],
)
def test_what_cannot_be_matched_is_named(
    names: list[str], text: str | None, words: str, tmp_path: Path
) -> None:
    images = pictures(tmp_path, *names)
    images.mkdir(exist_ok=True)
    with pytest.raises(RefusedModel, match=words):
        labelled_pictures(images, LABELS, "birds", None if text is None else mapping(tmp_path, text))
