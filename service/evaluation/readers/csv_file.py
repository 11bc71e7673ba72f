"""Data set of a CSV file: the path of a picture and its label in each row."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.zoo.display import shown, without_surrogates
from models.zoo.files import not_text
from service.errors import InvalidDataset
from service.evaluation.dataset import Dataset, Picture, Problem, long_name
from service.evaluation.readers.paths import (
    MOST_PICTURES,
    AnnotatedFiles,
    File,
    has_picture_suffix,
    read_file,
)

MOST_BYTES = 256 << 20
"""Maximum size of a file."""
_DELIMITERS = (",", ";", "\t", "|", " ")
_PATHS = (
    *("path", "filepath", "filename", "file", "image", "imagepath", "imagefile", "imagename", "img"),
    *("picture", "photo", "imageid", "id", "name"),
)
_LABELS = (
    *("label", "labels", "class", "classname", "category", "categoryname", "target", "species", "breed"),
    *("classid", "labelid", "y"),
)
"""Possible headers of the column of labels. If a file has several, the first one in this order counts."""
_SAMPLE = 50
_Row = tuple[int, list[str]]
"""Number of the line in the file, and the cells of the row."""


class _Dialect(csv.excel):
    """Excel's dialect, but spaces are allowed before a quote, and text after a closing quote is an error."""

    skipinitialspace = True
    strict = True


@dataclass(frozen=True)
class _Columns:
    """The columns of a CSV file.

    `path` and `label`: index of the column of paths and of the column of labels. `count`: number of all
    columns. `header`: whether the first row is a header.
    """

    path: int
    label: int
    count: int
    header: bool


def read_csv(path: Path, images: Path | None = None) -> Dataset:
    """Return the pictures that a CSV file names, with their labels.

    Columns are separated by comma, semicolon, tab, vertical bar or space, whichever fits the first lines
    best. Cells may be quoted. Text is UTF-8 or UTF-16, with or without a byte order mark. Other text is read
    as Windows-1252. A header names the columns. If there is no header, the column of paths is the one whose
    cells have the suffixes of pictures. Paths are relative to the folder `images`, or to a folder below it
    (see AnnotatedFiles). If `images` is None, the folder of the file is used instead.

    Raises InvalidDataset if no row names a picture that exists.
    """
    where = f"--data {shown(path.name)}"
    text, notes = _text(path, where)
    rows, delimiter = _rows(text, where)
    columns = _columns(rows, where)
    if columns.count > 2 and columns.header:
        header = rows[0][1]
        notes.append(
            f"read from the columns {shown(header[columns.path])[:100]} and "
            f"{shown(header[columns.label])[:100]}"
        )
    problems: list[Problem] = []
    labelled = _labelled(rows[columns.header :], columns, delimiter, problems)
    files = AnnotatedFiles(images or path.parent, [text for _, text, _ in labelled])
    pictures = _pictures(labelled, files, problems)
    if not pictures:
        first = f": {shown(problems[0].key)}: {problems[0].reason}" if problems else ""
        raise InvalidDataset(f"{where}: no row names a picture that is there{first}")
    if len(pictures) > MOST_PICTURES:
        raise InvalidDataset(f"{where}: {len(pictures)} pictures (allowed: {MOST_PICTURES})")
    return Dataset(
        name=path.name,
        path=path,
        kind="csv",
        task="image-classification",
        class_names=tuple(sorted({label for _, _, label in labelled})),
        pictures=tuple(sorted(pictures, key=lambda picture: picture.key)),
        problems=tuple(problems),
        notes=(*notes, *files.notes()),
    )


def _labelled(
    rows: Sequence[_Row], columns: _Columns, delimiter: str, problems: list[Problem]
) -> list[tuple[int, str, str]]:
    """Return the line number, the path and the label of each row that has a path and a label."""
    labelled = []
    for line, cells in rows:
        if len(cells) < columns.count or any(cells[columns.count :]):
            problems.append(
                Problem(
                    f"line {line}",
                    f"{len(cells)} columns (allowed: {columns.count}; quotes around {delimiter!r})",
                )
            )
        elif not cells[columns.path]:
            problems.append(Problem(f"line {line}", "no path"))
        elif not cells[columns.label]:
            problems.append(Problem(_key(cells[columns.path]), f"no label in line {line}"))
        elif (long := long_name(cells[columns.label])) is not None:
            problems.append(Problem(_key(cells[columns.path]), f"{long} in line {line}"))
        else:
            labelled.append((line, cells[columns.path], without_surrogates(cells[columns.label])))
    return labelled


def _pictures(
    labelled: Sequence[tuple[int, str, str]], files: AnnotatedFiles, problems: list[Problem]
) -> list[Picture]:
    """Return each picture that exists, once. Leave out pictures that have two different labels."""
    pictures: dict[str, Picture] = {}
    lines: dict[str, int] = {}
    contradicted: set[str] = set()
    for line, text, label in labelled:
        file = files.find(text)
        if not isinstance(file, File):
            problems.append(Problem(_key(text), f"{file}, line {line}"))
            continue
        known = pictures.setdefault(file.key, Picture(file.key, file.path, label, file.size, file.mtime_ns))
        first = lines.setdefault(file.key, line)
        if known.class_name != label:
            contradicted.add(file.key)
            problems.append(
                Problem(
                    file.key,
                    f"{shown(known.class_name)} in line {first}, {shown(label)} in line {line}; left out",
                )
            )
        elif first != line:
            problems.append(
                Problem(file.key, f"listed in line {first} and again in line {line}; counts once")
            )
    return [picture for key, picture in pictures.items() if key not in contradicted]


def _key(path: str) -> str:
    return without_surrogates(path)[:300]


def _text(path: Path, where: str) -> tuple[str, list[str]]:
    content = read_file(path, MOST_BYTES)
    encoding = json.detect_encoding(content)
    try:
        return content.decode(encoding).lstrip("\ufeff"), []
    except UnicodeDecodeError as error:
        problem = not_text(error)
    marked = content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not marked and b"\0" not in content:
        try:
            return content.decode("cp1252"), ["the file is not UTF-8, so it is read as Windows-1252"]
        except UnicodeDecodeError:
            pass
    raise InvalidDataset(f"{where}: not text, {problem} (allowed: UTF-8, UTF-16)")


def _rows(text: str, where: str) -> tuple[list[_Row], str]:
    """Return the rows that are not blank, with stripped cells, and the delimiter."""
    first, _, rest = text.partition("\n")
    line = 0
    if first.strip().lower()[:4] == "sep=":  # Excel states the delimiter in such a line
        named = first.strip("\r\n")[4:5]
        delimiters = (named,) if named in _DELIMITERS else _DELIMITERS
        text, line = rest, 1
    else:
        delimiters = _DELIMITERS
    head = "\n".join(text[: 1 << 20].splitlines()[:_SAMPLE])
    delimiter = max(delimiters, key=lambda each: _support(head, each))
    reader = csv.reader(io.StringIO(text, newline=""), _Dialect, delimiter=delimiter)
    rows: list[_Row] = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                rows.append((line + reader.line_num, stripped))
    except csv.Error as error:
        raise InvalidDataset(f"{where}: line {line + reader.line_num}: {error}") from None
    width = max((_width(cells) for _, cells in rows), default=0)  # all rows may end with surplus delimiters
    rows = [(number, cells[:width]) for number, cells in rows]
    if not rows or max(len(cells) for _, cells in rows[:_SAMPLE]) < 2:
        raise InvalidDataset(
            f"{where}: {'one column' if rows else 'no rows'} (allowed: path and label, separated by comma, "
            "semicolon or tab)"
        )
    return rows, delimiter


def _width(cells: Sequence[str]) -> int:
    """Return the number of cells up to the last one that is not empty."""
    return next((number for number in range(len(cells), 0, -1) if cells[number - 1]), 0)


def _support(head: str, delimiter: str) -> tuple[int, int]:
    """Return how well `delimiter` fits the first rows.

    The result has two numbers, and larger ones mean a better fit. The first is the number of rows that name a
    picture. The second is the number of rows that have the most frequent number of cells. Rows of only one
    cell do not count.
    """
    reader = csv.reader(io.StringIO(head), _Dialect, delimiter=delimiter)
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # `head` may end in the middle of a cell
        rows.extend([cell.strip() for cell in cells] for cells in reader)
    several = [cells for cells in rows if len(cells) > 1]
    named = sum(any(map(has_picture_suffix, cells)) for cells in several)
    return named, max(Counter(map(len, several)).values(), default=0)


def _columns(rows: Sequence[_Row], where: str) -> _Columns:
    """Find the columns of paths and labels. Raises InvalidDataset if they cannot be found."""
    first = rows[0][1]
    sample = [cells for _, cells in rows[:_SAMPLE]]
    names = ["".join(filter(str.isalnum, cell.lower())) for cell in first]
    path, label = _named(names, _PATHS), _named(names, _LABELS)
    suffixes = Counter(
        number for cells in sample for number, cell in enumerate(cells) if has_picture_suffix(cell)
    )
    header = not any(map(has_picture_suffix, first)) and bool(
        suffixes or (path is not None and label is not None)
    )
    if suffixes and (not header or path is None or suffixes[path] == 0):
        path = suffixes.most_common(1)[0][0]
    if not header:
        label = None
    if path is None or path == label:
        path = next(number for number in range(len(first) + 1) if number != label)
    if label is None and len(first) == 2:
        label = 1 - path
    if label is None or path >= len(first):
        columns = ", ".join(shown(cell)[:40] for cell in first[:8])
        raise InvalidDataset(
            f"{where}: no column is recognised as the label: {columns} (allowed: a header with path and "
            "label, or these two columns)"
        )
    return _Columns(path, label, len(first), header)


def _named(names: Sequence[str], known: Sequence[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)
