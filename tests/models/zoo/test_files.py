"""Files that people write are read however their editor saved them; other things are not waited for."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.compress.compression import DEFAULTS, read_compression
from models.train.recipe import RECIPE, read_config
from models.zoo.card import Card, read_card, write_card
from models.zoo.files import JsonLines, read_regular, read_text, write_whole
from models.zoo.labels import read_labels

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]


@pytest.fixture
def folder(tiny_models_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models_dir / "tiny", tmp_path / "tiny"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_cards_and_labels_are_read_in_any_unicode(folder: Path, encoding: str) -> None:
    card = read_card(folder)
    text = (folder / "card.json").read_text().replace("\n", "\r\n")
    (folder / "card.json").write_bytes(text.encode(encoding))
    (folder / "labels.txt").write_bytes("".join(f"Ding {i} ä\r\n" for i in range(10)).encode(encoding))
    assert read_card(folder) == card
    assert read_labels(card, folder)[9] == "Ding 9 ä"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_repeated_byte_order_marks_do_not_count(folder: Path, encoding: str) -> None:
    card = read_card(folder)
    for name in ("card.json", "labels.txt"):
        text = (folder / name).read_text()
        (folder / name).write_bytes(f"\ufeff\ufeff{text}".encode(encoding))
    assert read_card(folder) == card
    assert read_labels(card, folder)[0] == "thing 0"


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\r", "\n\n\n", "\r\n\r\n", "\n \t\n"])
def test_blank_lines_at_the_end_of_labels_do_not_count(folder: Path, ending: str) -> None:
    (folder / "labels.txt").write_bytes(("\r\n".join("abcdefghij") + ending).encode())
    assert read_labels(read_card(folder), folder) == tuple("abcdefghij")


def test_labels_on_lines_of_an_old_mac_are_read(folder: Path) -> None:
    (folder / "labels.txt").write_bytes("\r".join("abcdefghij").encode())
    assert read_labels(read_card(folder), folder) == tuple("abcdefghij")


def test_a_checksum_may_have_capitals(folder: Path) -> None:
    card = read_card(folder)
    changed = json.loads((folder / "card.json").read_text())
    changed["file"]["sha256"] = card.file.sha256.upper()
    (folder / "card.json").write_text(json.dumps(changed))
    assert read_card(folder) == card


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_recipes_are_read_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    for source, read in ((RECIPE, read_config), (DEFAULTS, read_compression)):
        copy = tmp_path / source.name
        copy.write_bytes(source.read_text(encoding="utf-8").encode(encoding))
        assert read(copy) == read(source)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "latin-1.txt").write_bytes("Müller".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError, match="utf-8"):
        read_text(tmp_path / "latin-1.txt")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfea")
    with pytest.raises(UnicodeDecodeError, match="utf-8"):
        read_text(tmp_path / "odd.txt")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nothing")


def changed(folder: Path, **changes: Any) -> Card:
    return Card.model_validate(read_card(folder).model_dump() | changes)


@pytest.mark.parametrize("activation", ["none", "softmax", "sigmoid"])
def test_activation_on_a_card(folder: Path, activation: str) -> None:
    card = changed(folder, outputs={"logits": [10], "activation": activation})
    write_card(folder, card)
    assert json.loads((folder / "card.json").read_text())["outputs"] == {
        "logits": [10],
        "activation": activation,
    }
    assert read_card(folder) == card
    assert card.output_shapes == {"logits": (10,)}


def test_card_without_activation(folder: Path) -> None:
    before = (folder / "card.json").read_bytes()
    write_card(folder, read_card(folder))
    assert (folder / "card.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"outputs": {"logits": [10], "activation": "tanh"}}, "outputs.activation"),
        ({"outputs": {"logits": [10], "scores": [10]}}, "outputs.scores"),
        ({"outputs": {"embedding": [10]}}, "outputs.logits"),
        ({"outputs": {"logits": [9]}}, r"outputs.logits is \(9,\) for 10 classes"),
        ({"classes": 0, "outputs": {"logits": [0]}}, "classes"),
        ({"classes": 1, "outputs": {"logits": [1]}}, "classes is 1: its softmax is always 1"),
    ],
)
def test_outputs_that_contradict_the_card_are_refused(
    folder: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        changed(folder, **changes)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with pytest.raises(TypeError):
        write_whole(path, "no bytes")  # type: ignore[arg-type]
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"old")]


def test_json_lines_survive_a_partial_write(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    log = JsonLines(path, {"cpu": "a"})
    log.append({"x": 1})
    log.append({"x": 2})
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        kept = JsonLines(path, {"cpu": "a"}).records
        assert kept == [{"x": 1}, {"x": 2}][: max(0, content[:end].count(b"\n") - 1)]
    path.write_bytes(content.replace(b'{"x": 1}', b'{"x": 1'))
    with pytest.raises(ValueError, match=": damaged"):
        JsonLines(path, {"cpu": "a"})
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"\(cpu, os differ\)"):
        JsonLines(path, {"cpu": "b", "os": "c"})
    assert path.read_bytes() == content
