"""Metadata of images, and filters on metadata.

Untrusted JSON is parsed strictly, and metadata are stored as indexed rows.
"""

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
"""Largest integer that every database and JavaScript can represent exactly."""

_Comparison = Literal["gte", "gt", "lte", "lt"]
_COMPARISONS: tuple[_Comparison, ...] = get_args(_Comparison)
_OPERATORS = ", ".join(_COMPARISONS)


def check_id(id: str) -> str:
    """Return `id` if it is a valid id of an image. Raises InvalidParameter if it is not."""
    if not ID.fullmatch(id) or id in (".", ".."):
        raise InvalidParameter(
            f"id {id[:100]!r}: invalid (allowed: 1 to 255 letters, digits, '_', '.', '-'; not '.' or '..')"
        )
    return id


def parse_metadata(text: str | bytes) -> Metadata:
    """Parse metadata from JSON. An empty text gives empty metadata.

    Raises InvalidParameter unless the text is a flat object of strings, finite numbers, booleans and nulls
    within the limits above.
    """
    fields = _object("metadata", text, MAX_METADATA_BYTES)
    if len(fields) > MAX_FIELDS:
        raise InvalidParameter(f"metadata: {len(fields)} fields (limit: {MAX_FIELDS})")
    for name, value in fields.items():
        _check_name("metadata", name)
        _check_value(f"metadata: field {name[:64]!r}", value)
    return fields


def parse_where(text: str | None) -> tuple[Condition, ...]:
    """Parse a filter such as `{"label": "cat", "year": {"gte": 2019, "lt": 2024}}`.

    If the filter gives a plain value for a field, an image's field must equal this value. If it gives an
    object, the object has comparisons of the image's field with strings or numbers. An image matches the
    filter if all these conditions hold. Raises InvalidParameter.
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
        raise InvalidParameter(f"where: {len(conditions)} conditions (limit: {MAX_CONDITIONS})")
    return tuple(conditions)


def _comparisons(name: str, comparisons: dict[str, Any]) -> list[Condition]:
    conditions = []
    if not comparisons:
        raise InvalidParameter(f"where: field {name[:64]!r}: no comparison (allowed: {_OPERATORS})")
    for operator, value in comparisons.items():
        if operator not in _COMPARISONS:
            raise InvalidParameter(
                f"where: field {name[:64]!r}: unknown comparison {operator[:20]!r} (allowed: {_OPERATORS}; a "
                "plain value for equality)"
            )
        subject = f"where: field {name[:64]!r}, {operator}"
        _check_value(subject, value)
        if value is None or isinstance(value, bool):
            raise InvalidParameter(f"{subject}: {_shown(value)} (allowed: a number or a string)")
        conditions.append(Condition(name, operator, value))
    return conditions


def _object(subject: str, text: str | bytes, max_bytes: int) -> dict[str, Any]:
    size = len(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
    if size > max_bytes:
        raise InvalidParameter(f"{subject}: {size} bytes (limit: {max_bytes})")
    # Files written on Windows may begin with a byte order mark.
    text = text.removeprefix(b"\xef\xbb\xbf") if isinstance(text, bytes) else text.removeprefix("\ufeff")
    if not text.strip():
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidParameter(f"{subject}: not JSON: {error.msg}, at character {error.pos}") from None
    if not isinstance(value, dict):
        raise InvalidParameter(f"{subject}: {_shown(value)} (allowed: a JSON object)")
    return value


def _check_name(subject: str, name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_LENGTH or "\0" in name:
        raise InvalidParameter(
            f"{subject}: field name {name[:MAX_NAME_LENGTH]!r} of {len(name)} characters (allowed: 1 to "
            f"{MAX_NAME_LENGTH}, without NUL)"
        )


def _check_value(subject: str, value: Scalar | list[Any] | dict[str, Any]) -> None:
    match value:
        case None | bool():
            return
        case str():
            size = len(value.encode())
            if size > MAX_STRING_BYTES:
                raise InvalidParameter(f"{subject}: {size} bytes (limit: {MAX_STRING_BYTES})")
            if "\0" in value:
                raise InvalidParameter(f"{subject}: NUL character (allowed: text without NUL)")
        case int() | float():
            if not math.isfinite(value) or (isinstance(value, int) and abs(value) > _LARGEST):
                raise InvalidParameter(
                    f"{subject}: {_shown(value)} (allowed: integers up to 2**53, larger ones as strings)"
                )
        case _:
            raise InvalidParameter(
                f"{subject}: {_shown(value)} (allowed: a string, a number, true, false, null)"
            )


def _shown(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else text[:60] + "..."


def to_json(metadata: Metadata) -> str:
    """Serialize metadata with sorted names, so that equal metadata are equal texts."""
    return json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def write_fields(connection: Connection, key: int, metadata: Metadata) -> None:
    """Replace the rows that have an image's metadata by rows for `metadata`."""
    remove_fields(connection, key)
    if metadata:
        connection.execute(
            insert(gallery_fields),
            [{"key": key, "name": name, **_columns(value)} for name, value in metadata.items()],
        )


def remove_fields(connection: Connection, key: int) -> None:
    """Delete the rows that have an image's metadata."""
    connection.execute(delete(gallery_fields).where(gallery_fields.c.key == key))


def matching_keys(where: Iterable[Condition], *, among: Sequence[int] | None = None) -> Select[int]:
    """Return a subquery for the keys of the images that match all conditions.

    `where` must not be empty. `among`: the only keys that are considered, or None to consider all images.
    """
    within = [] if among is None else [gallery_fields.c.key.in_(among)]
    queries = [select(gallery_fields.c.key).where(*_matches(condition), *within) for condition in where]
    if len(queries) == 1:
        return queries[0]
    intersection = intersect(*queries).subquery()
    return select(intersection.c.key)


def _matches(condition: Condition) -> list[ColumnElement[bool]]:
    columns = _columns(condition.value)
    same_type = [gallery_fields.c.name == condition.name, gallery_fields.c.kind == columns["kind"]]
    if columns["kind"] == "0":
        return same_type
    name = "number" if columns["kind"] == "n" else "text"
    column, value = gallery_fields.c[name], columns[name]
    comparisons: dict[str, ColumnElement[bool]] = {
        "eq": column == value,
        "gte": column >= value,
        "gt": column > value,
        "lte": column <= value,
        "lt": column < value,
    }
    return [*same_type, comparisons[condition.operator]]


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
