"""Ids, metadata and conditions are untrusted JSON: what is kept is small, flat and the same everywhere."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidParameter
from service.gallery.metadata import MAX_METADATA_BYTES, check_id, parse_metadata, parse_where, to_json
from service.gallery.records import Condition


@pytest.mark.parametrize("id", ["a", "A-b_c.9", "...", ".a", "x" * 255, "0"])
def test_ids_that_can_be(id: str) -> None:
    assert check_id(id) == id


@pytest.mark.parametrize("id", ["", ".", "..", "a/b", "../a", "a\n", "ä", "a b", "x" * 256, "a\0"])
def test_invalid_ids(id: str) -> None:
    with pytest.raises(InvalidParameter, match="1 to 255"):
        check_id(id)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (" ", {}),
        ("\ufeff", {}),
        ('\ufeff{"a": 1}\r\n', {"a": 1}),
        ("{}", {}),
        (
            '{"a": "b", "c": 1, "d": 1.5, "e": true, "f": null}',
            {"a": "b", "c": 1, "d": 1.5, "e": True, "f": None},
        ),
        ('{"größe": "ü 猫"}', {"größe": "ü 猫"}),
        ('{"n": 9007199254740992}', {"n": 2**53}),
    ],
)
def test_valid_metadata(text: str, expected: dict[str, object]) -> None:
    assert parse_metadata(text) == parse_metadata(text.encode()) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "not JSON"),
        ('"text"', "allowed: a JSON object"),
        ("NaN", "not JSON"),
        ('{"a": NaN}', "not JSON"),
        ('{"a": 9007199254740993}', "2\\*\\*53"),
        ('{"a": []}', "'a': \\[\\]"),
        ('{"a": {}}', "'a': {}"),
        ('{"a": "\\u0000"}', "NUL"),
        ('{"\\u0000": 1}', "NUL"),
        (json.dumps({"n" * 65: 1}), "65 characters"),
        (json.dumps({"a": "ü" * 1001}), "2002 bytes \\(limit: 2000"),
        (json.dumps({f"f{n}": n for n in range(65)}), "65 fields \\(limit: 64"),
        (json.dumps({f"f{n}": "x" * 1999 for n in range(9)}), f"limit: {MAX_METADATA_BYTES}"),
        ("[" * 10_000, "not JSON|bytes"),
        ('{"a": "\\ud800"}', "not JSON"),
    ],
)
def test_invalid_metadata(text: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words) as caught:
        parse_metadata(text)
    assert len(caught.value.detail) < 400


def test_metadata_not_utf8() -> None:
    with pytest.raises(InvalidParameter, match="not JSON"):
        parse_metadata(b'{"a": "\xff"}')


def test_parse_where() -> None:
    text = (
        '{"label": "cat", "year": {"gte": 2019, "lt": 2024.5}, "seen": true, "by": null, "name": {"gt": "a"}}'
    )
    assert parse_where(text) == (
        Condition("label", "eq", "cat"),
        Condition("year", "gte", 2019),
        Condition("year", "lt", 2024.5),
        Condition("seen", "eq", True),
        Condition("by", "eq", None),
        Condition("name", "gt", "a"),
    )
    assert parse_where(None) == parse_where("{}") == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3", "object"),
        ('{"a": {}}', "no comparison"),
        ('{"a": {"eq": 1}}', "'eq'"),
        ('{"a": {"gte": null}}', "a number or a string"),
        ('{"a": {"lt": true}}', "a number or a string"),
        ('{"a": {"lt": [1]}}', "a string, a number"),
        ('{"a": [1, 2]}', "a string, a number"),
        (json.dumps({f"f{n}": n for n in range(17)}), "17 conditions \\(limit: 16"),
        (json.dumps({"a": "x" * 5000}), "4096"),
    ],
)
def test_invalid_where(text: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        parse_where(text)


@pytest.mark.slow
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_parse_metadata_of_any_text(text: str | bytes) -> None:
    with contextlib.suppress(InvalidParameter):
        fields = parse_metadata(text)
        assert all(value is None or isinstance(value, str | int | float) for value in fields.values())
        assert parse_metadata(to_json(fields)) == fields
