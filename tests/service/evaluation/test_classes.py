"""Names of classes and the labels that they match."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from models.zoo.labels import BUILT_IN
from service.errors import InvalidDataset
from service.evaluation.classes import built_in_lines, match_classes, read_mapping, unknown_in_mapping
from tests.service.evaluation.readers.files import written

LABELS = ("tench, Tinca tinca", "Egyptian cat", "crane", "crane", "water bottle", "T-shirt/top", "7", "tench")
IMAGENET = built_in_lines("", "imagenet-1k")
FASHION = built_in_lines("", "fashion-mnist")


@pytest.mark.parametrize(
    ("name", "class_id"),
    [
        ("tench", 7),
        ("Tinca_tinca", 0),
        ("EGYPTIAN-CAT", 1),
        ("t-shirt", 5),
        ("T-shirt_top", 5),
        ("7", 6),
        ("004", 4),
        ("  water bottle ", 4),
    ],
)
def test_a_name_matches_one_label(name: str, class_id: int) -> None:
    assert match_classes([name], LABELS, "own").ids == {name: class_id}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crane", "2 labels of own: crane (2), crane (3)"),
        ("bottles", "no label of own (similar: water bottle)"),
        ("bottle-large", "no label of own (similar: water bottle)"),
        ("egyptain cats", "no label of own (similar: Egyptian cat)"),
        ("wattle", "no label of own"),
        ("horse", "no label of own"),
        ("8", "no label of own"),
        ("-1", "no label of own"),
        ("9" * 5000, "no label of own"),
        ("٣", "no label of own"),
        ("n01440764", "no label of own"),
        ("★", "no label of own"),
        ("", "no label of own"),
        ("-", "no label of own"),
    ],
)
def test_a_name_that_matches_none_or_several_is_explained(name: str, reason: str) -> None:
    matched = match_classes([name], LABELS, "own")
    assert matched.unmatched == {name: reason}
    assert not matched.ids


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("n01440764", "tench"),
        ("n02085620-Chihuahua", "Chihuahua"),
        ("n15075141", "toilet paper"),
        ("n09193705", "mountain"),
        ("running shoe", "sneaker"),
        ("Carassius auratus", "goldfish"),
        ("crane", None),
        ("maillot", "maillot"),
        ("kayak", "kayak"),
    ],
)
def test_synonyms_and_wordnet_ids_of_imagenet(name: str, label: str | None) -> None:
    matched = match_classes([name], IMAGENET, "imagenet-1k")
    assert [IMAGENET[number] for number in matched.ids.values()] == ([label] if label else [])


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("chimpanse", ["chimpanzee"]),
        ("koala-red", ["koala"]),
        ("camel", ["arabian camel"]),
        ("Fahrrad", []),
    ],
)
def test_similar_labels_of_imagenet(name: str, similar: list[str]) -> None:
    assert match_classes([name], IMAGENET, "imagenet-1k").similar == ({name: similar} if similar else {})


def test_labels_of_their_own_have_no_synonyms() -> None:
    """A model may have other labels in its labels.txt under the name of a built-in set."""
    matched = match_classes(["n01440764", "running shoe"], IMAGENET[::-1], "imagenet-1k")
    assert set(matched.unmatched) == {"n01440764", "running shoe"}


def test_every_built_in_label_and_wordnet_id_matches_itself() -> None:
    wordnet = built_in_lines("wordnet", "imagenet-1k")
    assert len(set(wordnet)) == 1000
    for names in (IMAGENET, wordnet):
        assert match_classes(names, IMAGENET, "imagenet-1k").ids == {name: n for n, name in enumerate(names)}
    assert match_classes(FASHION, FASHION, "fashion-mnist").ids == {name: n for n, name in enumerate(FASHION)}
    for kind in ("synonyms", "wordnet"):
        for path in (BUILT_IN / kind).glob("*-*k.txt"):
            assert len(built_in_lines(kind, path.stem)) == len(built_in_lines("", path.stem))


def test_wordnet_ids_are_in_the_order_of_the_labels() -> None:
    """ImageNet numbers its classes in the order of their ids."""
    wordnet = built_in_lines("wordnet", "imagenet-1k")
    assert all(first < second for first, second in itertools.pairwise(wordnet))
    known = {"n02123045": "tabby cat", "n02504458": "African bush elephant", "n03063599": "coffee mug"}
    assert {name: IMAGENET[wordnet.index(name)] for name in known} == known


def test_a_mapping_counts_before_the_name() -> None:
    mapping: dict[str, str | int] = {
        "tench": "Egyptian cat",
        "x": 3,
        "y": "3",
        "z": 99,
        "rest": "-",
        "w": "gone",
    }
    matched = match_classes(["tench", "x", "y", "z", "rest", "w", "7"], LABELS, "own", mapping)
    assert matched.ids == {"tench": 1, "x": 3, "y": 3, "7": 6}
    assert matched.unmatched == {
        "z": "mapped to 99: no label of own",
        "rest": "left out by the mapping",
        "w": "mapped to gone: no label of own",
    }
    assert unknown_in_mapping(mapping, ["tench", "x", "y", "z"]) == ["rest", "w"]


def test_separated_accents_are_those_of_their_letters(tmp_path: Path) -> None:
    mapping = read_mapping(written(tmp_path / "mapping.txt", "cafe\u0301 = crane\nma\u00efs = tench\n"))
    assert unknown_in_mapping(mapping, ["caf\u00e9", "mai\u0308s"]) == []
    assert match_classes(["mai\u0308s"], LABELS, "own", mapping).ids == {"mai\u0308s": 7}
    assert match_classes(["cafe\u0301"], ["caf\u00e9"], "own").ids == {"cafe\u0301": 0}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    ['{"birds": 3, "ä": "dog", "rest": "-"}', "# comment\r\n\r\nbirds = 3\r\nä\tdog\r\nä\tdog\r\nrest=-\r\n"],
    ids=["JSON", "lines"],
)
def test_mapping_files(text: str, encoding: str, tmp_path: Path) -> None:
    mapping = read_mapping(written(tmp_path / "mapping.txt", text, encoding))
    assert {name: str(target) for name, target in mapping.items()} == {"birds": "3", "ä": "dog", "rest": "-"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dog", "line 1 is not CLASS = LABEL"),
        ("dog =", "line 1 is not CLASS = LABEL"),
        ("a = b\na = c", "line 2 maps a a second time"),
        ("{", "not valid JSON"),
        ('{"a": true}', "neither a label nor a class id"),
        ('{"a": ' + "[" * 100_000, "not valid JSON"),
    ],
)
def test_mapping_files_that_cannot_be_read(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=f"--mapping mapping.txt: .*{words}"):
        read_mapping(written(tmp_path / "mapping.txt", text))
    (tmp_path / "mapping.txt").write_bytes(b"a = \xff")
    with pytest.raises(InvalidDataset, match="not text"):
        read_mapping(tmp_path / "mapping.txt")
    with pytest.raises(InvalidDataset, match="cannot be read"):
        read_mapping(tmp_path)
