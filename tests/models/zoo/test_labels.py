"""Names of classes: the built-in list, a model's own, and what is wrong with a list that does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models.zoo.card import Card, read_card
from models.zoo.labels import read_labels


@pytest.fixture
def folder(tiny_models_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models_dir / "tiny", tmp_path / "tiny"))


def card_of(folder: Path, **changes: object) -> Card:
    return Card.model_validate(read_card(folder).model_dump() | changes)


def test_labels_of_the_model_take_precedence(folder: Path) -> None:
    card = card_of(folder, labels="imagenet-1k")
    assert read_labels(card, folder) == tuple(f"thing {i}" for i in range(10))


def test_imagenet_labels_are_built_in(folder: Path) -> None:
    (folder / "labels.txt").unlink()
    card = card_of(folder, labels="imagenet-1k", classes=1000, outputs={"logits": (1000,)})
    labels = read_labels(card, folder)
    assert len(set(labels)) == 1000
    assert (labels[0], labels[285], labels[388], labels[999]) == (
        "tench",
        "Egyptian Mau",
        "giant panda",
        "toilet paper",
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a\nb\n", "labels.txt names 2 classes, the card says 10"),
        ("\n".join("abcdefghijk"), "names 11 classes, the card says 10"),
        ("a\nb\n\nd\ne\nf\ng\nh\ni\nj\n", "blank line where the name of class 2 belongs"),
    ],
)
def test_labels_that_do_not_fit_are_refused(folder: Path, text: str, complaint: str) -> None:
    (folder / "labels.txt").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read_labels(read_card(folder), folder)


def test_line_endings_and_separators(folder: Path) -> None:
    (folder / "labels.txt").write_bytes(
        "\ufeffä\r\nb\u2028b\r\nc\r\nd\r\ne\r\nf\r\ng\r\nh\r\ni\r\nj\r\n".encode()
    )
    labels = read_labels(read_card(folder), folder)
    assert labels[:3] == ("ä", "b\u2028b", "c")


def test_unknown_label_set(folder: Path) -> None:
    (folder / "labels.txt").unlink()
    with pytest.raises(ValueError, match=r"'tiny-10' is not built in \(.*imagenet-1k.*\)"):
        read_labels(read_card(folder), folder)


def test_labels_that_are_not_text(folder: Path) -> None:
    (folder / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_labels(read_card(folder), folder)
