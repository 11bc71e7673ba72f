"""Escaping of untrusted text, numbers with nouns, and lists of names."""

from __future__ import annotations

import os

import pytest

from models.zoo.display import comma_list, counted, encodable, joined, shown, without_surrogates


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain café 猫 [b] 100 % \\", "plain café 猫 [b] 100 % \\"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\nb\r\tc\0d\x7f", r"a\nb\r\tc\x00d\x7f"),
        ("abc\u202etxt.exe\u2066\u200e", r"abc\u202etxt.exe\u2066\u200e"),
        ("a\u2028b\u2029c\ufeff", r"a\u2028b\u2029c\ufeff"),
        ("mo\u200bdel\xad.da\u2060ta", r"mo\u200bdel\xad.da\u2060ta"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        ("\ud800", r"\ud800"),
        ("👩‍🔬", "👩‍🔬"),  # joined by U+200D
    ],
)
def test_control_characters_are_escaped(text: str, escaped: str) -> None:
    assert shown(text) == escaped
    assert shown(shown(text)) == shown(text)
    assert encodable(shown(text))


def test_shown_keep() -> None:
    assert shown("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_file_name_without_surrogates() -> None:
    name = os.fsdecode(b"a\xff\n\xc3\xa9")
    assert not encodable(name)
    assert without_surrogates(name) == "a\\xff\né"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (["a", "b", "c", "d"], "a, b, c and 1 other"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 others"),
    ],
)
def test_joined_names(names: list[str], words: str) -> None:
    assert joined(names) == words


def test_counted_nouns() -> None:
    assert [counted(n, "class", "classes") for n in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a,b", ["a", "b"]),
        (" a , b ", ["a", "b"]),
        ("a,,b,", ["a", "b"]),
        ("a\n", ["a"]),
        (" , ", []),
        ("", []),
    ],
)
def test_comma_list_with_blanks(text: str, items: list[str]) -> None:
    assert comma_list(text) == items
