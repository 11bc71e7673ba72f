"""Metadata of images as rows that can be asked, in any database, with an index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, delete, insert, intersect, select

from service.gallery.records import Condition, Metadata, Scalar
from service.gallery.tables import gallery_fields


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
