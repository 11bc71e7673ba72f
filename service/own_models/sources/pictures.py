"""Labelled pictures: one folder per class; its name, or a mapping file, tells the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import RefusedModel, error_words
from service.own_models.facts import words
from service.own_models.sources.labels import parse_json, read_bounded

_IGNORED = "-"


@dataclass(frozen=True)
class Labelled:
    """A picture and the class that it shows."""

    path: Path
    class_id: int


def labelled_pictures(
    images: Path, labels: Sequence[str], mapping: Path | None, *, option: str = "--images"
) -> list[Labelled]:
    """Return the files in the subfolders of `images`, each with its class id, sorted by name.

    A subfolder belongs to the label of the same name; only letters and digits are compared, without case.
    Each part of a label such as "tench, Tinca tinca" counts as its name. `mapping`: a file that maps
    subfolders to labels or class ids, as JSON or as lines `FOLDER = LABEL`; `-` excludes a subfolder.
    `option`: the option to name in messages. Raises RefusedModel for a subfolder that matches no label or
    several.
    """
    try:
        folders = sorted(path for path in images.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise RefusedModel(f"{option} {images.name}: cannot be read, {error_words(error)}") from None
    mapped = {} if mapping is None else _mapping(mapping)
    missing = sorted(set(mapped) - {folder.name for folder in folders})
    if missing:
        raise RefusedModel(f"--mapping: no such folder in {option}: {', '.join(map(words, missing[:5]))}")
    ids = _ids(labels)
    pictures: list[Labelled] = []
    unmatched = []
    for folder in folders:
        target = mapped.get(folder.name, folder.name)
        if target == _IGNORED:
            continue
        found = _class_ids(target, ids, len(labels))
        if len(found) != 1:
            unmatched.append(f"{words(folder.name)} ({len(found)} labels)")
            continue
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[:1] != ".")
        pictures += [Labelled(path, found[0]) for path in files]
    if unmatched:
        more = f" and {len(unmatched) - 5} more" if len(unmatched) > 5 else ""
        raise RefusedModel(
            f"{option}: folders that match no single label: {', '.join(unmatched[:5])}{more} (allowed: names "
            "of classes; --mapping FILE with lines FOLDER = LABEL or class id, FOLDER = - leaves one out)"
        )
    if not pictures:
        raise RefusedModel(f"{option} {images.name}: no pictures (allowed: a folder of pictures per class)")
    return pictures


def _ids(labels: Sequence[str]) -> dict[str, list[int]]:
    """Return the class ids by the plain form of each label and of its parts."""
    ids: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        for form in {_plain(label), *map(_plain, label.split(","))} - {""}:
            ids.setdefault(form, []).append(number)
    return ids


def _class_ids(target: str | int, ids: Mapping[str, list[int]], count: int) -> list[int]:
    found = ids.get(_plain(str(target)), [])
    if not found and str(target).isascii() and str(target).isdigit() and int(target) < count:
        return [int(target)]
    return found


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def _mapping(path: Path) -> dict[str, Any]:
    try:
        text = read_bounded(path)
    except UnicodeDecodeError:
        raise RefusedModel(f"--mapping {path.name}: not text") from None
    if text.lstrip().startswith("{"):
        value = parse_json(text, f"--mapping {path.name}")
        if not all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in value.values()):
            raise RefusedModel(f"--mapping {path.name}: a value is neither a label nor a class id")
        return dict(value)
    pairs = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        folder, equals, label = line.partition("\t" if "\t" in line else "=")
        if not equals or not folder.strip() or not label.strip():
            raise RefusedModel(f"--mapping {path.name}: line {number} is not FOLDER = LABEL")
        pairs[folder.strip()] = label.strip()
    return pairs
