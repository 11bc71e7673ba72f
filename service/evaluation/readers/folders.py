"""Data set with a folder per class: the name of a folder is the class of all pictures below it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.zoo.display import shown, without_surrogates
from service.errors import InvalidDataset, error_words
from service.evaluation.dataset import Dataset, Picture, Problem
from service.evaluation.readers.paths import (
    LAYOUTS,
    MOST_PICTURES,
    File,
    file_at,
    folders_in,
    has_picture_suffix,
    ignored,
    is_folder,
)

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
_YOLO = frozenset({"images", "labels"})


def read_folders(path: Path) -> Dataset:
    """Return the pictures in the folders of `path`. The name of a folder is the class of its pictures.

    Links are followed, but each folder is read only once. Raises InvalidDataset if no folder has a picture.
    """
    where = f"--data {shown(path.name)}"
    try:
        classes = folders_in(path)
        beside = sorted(name for name in os.listdir(path) if not ignored(name) and has_picture_suffix(name))
    except OSError as error:
        raise InvalidDataset(f"{where}: cannot be listed, {error_words(error)}") from None
    _refuse_other_layouts(where, classes)
    walk = _Walk(path)
    pictures: list[Picture] = []
    others: Counter[str] = Counter()
    for name in classes:
        for file in walk.below(name):
            suffix = os.path.splitext(file.path.name)[1].lower()
            if suffix and not has_picture_suffix(file.path.name):
                others[suffix] += 1
                continue
            if len(pictures) == MOST_PICTURES:
                raise InvalidDataset(f"{where}: more than {MOST_PICTURES} pictures")
            class_name = without_surrogates(name)
            pictures.append(Picture(file.key, file.path, class_name, file.size, file.mtime_ns))
    problems = [
        Problem(without_surrogates(name), "is in no folder of a class")
        for name in beside
        if name not in classes
    ]
    problems += walk.problems
    if not pictures:
        first = f"; {shown(problems[0].key)} {problems[0].reason}" if problems else ""
        raise InvalidDataset(f"{where}: no folder with pictures{first} {LAYOUTS}")
    return Dataset(
        name=path.name,
        path=path,
        kind="folder",
        task="image-classification",
        class_names=tuple(sorted(map(without_surrogates, classes))),
        pictures=tuple(sorted(pictures, key=lambda picture: picture.key)),
        problems=tuple(problems),
        notes=tuple(_notes(path, classes, others)),
    )


def _refuse_other_layouts(where: str, classes: Sequence[str]) -> None:
    """Raise InvalidDataset if the names of the folders are not classes, but belong to another layout."""
    names = {name.lower() for name in classes}
    if names and names <= _SPLITS:
        raise InvalidDataset(
            f"{where}: its folders {', '.join(map(shown, classes))} are parts of a data set, not classes "
            f"(allowed: one of them, best one that no model has been trained on, e.g. {where}/{classes[-1]})"
        )
    if names == _YOLO:
        raise InvalidDataset(
            f"{where}: its folders images and labels are those of YOLO (allowed for boxes: COCO's JSON file, "
            "or a folder with Pascal VOC's Annotations)"
        )


def _notes(path: Path, classes: Sequence[str], others: Counter[str]) -> list[str]:
    notes = []
    if others:
        listed = ", ".join(f"{count} {shown(suffix)}" for suffix, count in others.most_common(5))
        notes.append(f"files that are no pictures by their names, left out: {listed}")
    if len(classes) == 1:
        try:
            inner = folders_in(path / classes[0])
        except OSError:
            inner = []
        if len(inner) > 1:
            notes.append(
                f"{shown(classes[0])} is the only class; if its folders are the classes, evaluate "
                f"{shown(path.name)}/{shown(classes[0])}"
            )
    return notes


class _Walk:
    """The files below a folder.

    Hidden files are left out. A folder that has several names because of links is entered only under the
    first name, because links may form a loop. `problems`: folders and files that cannot be listed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entered: dict[tuple[int, int], str] = {}
        self.problems: list[Problem] = []
        self._enter(folder, ".")

    def below(self, name: str) -> Iterator[File]:
        """Yield the files below the folder `name`, ordered by name."""
        pending = [name]
        while pending:
            key = pending.pop()
            try:
                if not self._enter(self._folder / key, key):
                    continue
                with os.scandir(self._folder / key) as listed:
                    entries = sorted((entry for entry in listed if not ignored(entry.name)), key=_name)
            except OSError as error:
                self._report(key, f"cannot be listed, {error_words(error)}")
                continue
            pending += [f"{key}/{entry.name}" for entry in reversed(entries) if is_folder(entry)]
            for entry in entries:
                if is_folder(entry):
                    continue
                file = file_at(Path(entry.path), f"{key}/{entry.name}")
                if isinstance(file, File):
                    yield file
                else:
                    self._report(f"{key}/{entry.name}", file)

    def _enter(self, folder: Path, key: str) -> bool:
        """Return whether the folder has not been entered before, and remember it."""
        status = folder.stat()
        first = self._entered.setdefault((status.st_dev, status.st_ino), key)
        if first != key:
            self._report(key, f"is the same folder as {shown(first)}")
        return first == key

    def _report(self, key: str, reason: str) -> None:
        self.problems.append(Problem(without_surrogates(key), reason))


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name
