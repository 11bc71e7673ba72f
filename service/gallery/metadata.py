"""Metadata of images and conditions on it: parsed strictly from untrusted JSON, stored as indexed rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import orjson
from sqlalchemy import ColumnElement, Connection, Select, delete, insert, intersect, select

from service.errors import InvalidParameter
from service.gallery.records import Condition, Metadata, Scalar
from service.gallery.tables import gallery_fields

MAX_METADATA_BYTES = 16_384
MAX_FIELDS = 64
MAX_NAME_LENGTH = 64
MAX_STRING_BYTES = 2_000
MAX_WHERE_BYTES = 4_096
MAX_CONDITIONS = 16

ID = re.compile(r"[A-Za-z0-9_.-]{1,255}")

_LARGEST = 2**53
"""Whole numbers up to this are the same in every database, and in JavaScript."""

_Comparison = Literal["gte", "gt", "lte", "lt"]
_COMPARISONS: tuple[_Comparison, ...] = get_args(_Comparison)


def check_id(id: str) -> str:
    """The id, if it can be one. InvalidParameter else."""
    if not ID.fullmatch(id) or id in (".", ".."):
        raise InvalidParameter(
            f"id is {id[:100]!r}; 1 to 255 letters, digits, '_', '.' and '-' are allowed, but not '.' or '..'"
        )
    return id


def parse_metadata(text: str | bytes) -> Metadata:
    """The metadata in a JSON text; empty for an empty text.

    Raises InvalidParameter unless it is a flat object of strings, finite numbers, booleans and nulls, within
    the limits above.
    """
    fields = _object("metadata", text, MAX_METADATA_BYTES)
    if len(fields) > MAX_FIELDS:
        raise InvalidParameter(f"metadata has {len(fields)} fields; {MAX_FIELDS} are allowed")
    for name, value in fields.items():
        _check_name("metadata", name)
        _check_value(f"metadata: field {name[:64]!r}", value)
    return fields


def parse_where(text: str | None) -> tuple[Condition, ...]:
    """The conditions in a JSON text like `{"label": "cat", "year": {"gte": 2019, "lt": 2024}}`.

    A value is compared for equality; an object holds comparisons with strings or numbers. All must be met.
    Raises InvalidParameter for anything else.
    """
    if text is None:
        return ()
    conditions: list[Condition] = []
    for name, value in _object("where", text, MAX_WHERE_BYTES).items():
        _check_name("where", name)
        if isinstance(value, dict):
            conditions += _comparisons(name, value)
        else:
            _check_value(f"where: field {name[:64]!r}", value)
            conditions.append(Condition(name, "eq", value))
    if len(conditions) > MAX_CONDITIONS:
        raise InvalidParameter(f"where has {len(conditions)} conditions; {MAX_CONDITIONS} are allowed")
    return tuple(conditions)


def _comparisons(name: str, comparisons: dict[str, Any]) -> list[Condition]:
    found = []
    if not comparisons:
        raise InvalidParameter(f"where: field {name[:64]!r} has no comparison; {_choice()} are there")
    for operator, value in comparisons.items():
        if operator not in _COMPARISONS:
            raise InvalidParameter(
                f"where: field {name[:64]!r} is compared by {operator[:20]!r}; {_choice()} are there, and a "
                "plain value for equality"
            )
        what = f"where: field {name[:64]!r}, {operator}"
        _check_value(what, value)
        if value is None or isinstance(value, bool):
            raise InvalidParameter(f"{what} is {_shown(value)}; it takes a number or a string")
        found.append(Condition(name, operator, value))
    return found


def _choice() -> str:
    return ", ".join(_COMPARISONS)


def _object(what: str, text: str | bytes, most: int) -> dict[str, Any]:
    size = len(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
    if size > most:
        raise InvalidParameter(f"{what} has {size} bytes; {most} are allowed")
    # A file that was written on Windows may begin with a byte order mark.
    text = text.removeprefix(b"\xef\xbb\xbf") if isinstance(text, bytes) else text.removeprefix("\ufeff")
    if not text.strip():
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidParameter(f"{what} is not JSON: {error.msg}, at character {error.pos}") from None
    if not isinstance(value, dict):
        raise InvalidParameter(f"{what} is {_shown(value)}; a JSON object is needed")
    return value


def _check_name(what: str, name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_LENGTH or "\0" in name:
        raise InvalidParameter(
            f"{what}: a field's name is {name[:MAX_NAME_LENGTH]!r} ({len(name)} characters); "
            f"1 to {MAX_NAME_LENGTH} are allowed, none of them NUL"
        )


def _check_value(what: str, value: Scalar | list[Any] | dict[str, Any]) -> None:
    match value:
        case None | bool():
            return
        case str():
            size = len(value.encode())
            if size > MAX_STRING_BYTES:
                raise InvalidParameter(f"{what} has {size} bytes; {MAX_STRING_BYTES} are allowed")
            if "\0" in value:
                raise InvalidParameter(f"{what} has a NUL character, which cannot be kept")
        case int() | float():
            if not math.isfinite(value) or (isinstance(value, int) and abs(value) > _LARGEST):
                raise InvalidParameter(
                    f"{what} is {_shown(value)}; whole numbers go up to 2**53, longer ones fit a string"
                )
        case _:
            raise InvalidParameter(
                f"{what} is {_shown(value)}; a string, a number, true, false or null is needed"
            )


def _shown(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else text[:60] + "..."


def to_json(metadata: Metadata) -> str:
    """Metadata as it is kept: with sorted names, so that equal metadata are equal texts."""
    return json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def write_fields(connection: Connection, key: int, metadata: Metadata) -> None:
    """Make the rows of an image's fields those of `metadata`."""
    remove_fields(connection, key)
    if metadata:
        connection.execute(
            insert(gallery_fields),
            [{"key": key, "name": name, **_columns(value)} for name, value in metadata.items()],
        )


def remove_fields(connection: Connection, key: int) -> None:
    """Forget an image's fields."""
    connection.execute(delete(gallery_fields).where(gallery_fields.c.key == key))


def matching_keys(where: Iterable[Condition], *, among: Sequence[int] | None = None) -> Select[int]:
    """The keys of the images that meet all conditions (one at least), as a query that can be nested.

    `among`: only those of these keys.
    """
    within = [] if among is None else [gallery_fields.c.key.in_(among)]
    each = [select(gallery_fields.c.key).where(*_meets(condition), *within) for condition in where]
    if len(each) == 1:
        return each[0]
    together = intersect(*each).subquery()
    return select(together.c.key)


def _meets(condition: Condition) -> list[ColumnElement[bool]]:
    columns = _columns(condition.value)
    met = [gallery_fields.c.name == condition.name, gallery_fields.c.kind == columns["kind"]]
    if columns["kind"] == "0":
        return met
    name = "number" if columns["kind"] == "n" else "text"
    column, value = gallery_fields.c[name], columns[name]
    compared: dict[str, ColumnElement[bool]] = {
        "eq": column == value,
        "gte": column >= value,
        "gt": column > value,
        "lte": column <= value,
        "lt": column < value,
    }
    return [*met, compared[condition.operator]]


def _columns(value: Scalar) -> dict[str, Any]:
    match value:
        case None:
            return {"kind": "0", "text": None, "number": None}
        case bool():
            return {"kind": "b", "text": "true" if value else "false", "number": None}
        case str():
            return {"kind": "s", "text": value, "number": None}
        case _:
            return {"kind": "n", "text": None, "number": float(value)}
