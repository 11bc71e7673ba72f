"""Data sets: labelled pictures of a user. The modules in `readers` return them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.zoo.card import Task

Kind = Literal["folder", "csv", "coco", "voc"]
MOST_NAME = 500
"""Maximum length of a class name in characters. A longer text is probably a description, not a name."""
_MOST_TEXT = 1000


@dataclass(frozen=True, slots=True)
class Box:
    """An annotated object: its class, and its box in pixels of the upright original picture.

    Coordinates are continuous: x from 0 to the width of the picture, y from 0 to its height. So the width of
    the box is `right - left`. A box may extend beyond the edge of the picture. `crowd`: whether the object is
    a group of objects (COCO's iscrowd). `difficult`: whether it counts neither as found nor as missed (Pascal
    VOC). `area`: the object's area in square pixels as annotated by COCO. It is None if no area is annotated.
    """

    class_name: str
    left: float
    top: float
    right: float
    bottom: float
    crowd: bool = False
    difficult: bool = False
    area: float | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A listed picture, which has not been opened yet.

    `key`: its path relative to the folder of pictures, with `/` as separator. It is unique in a data set.
    `class_name`: its class in the data set. It is None in a data set with boxes. `size` and `mtime_ns`: the
    size of the file in bytes, and the time of its last modification, when the file was listed. If the file
    has another size or time when it is read, it has changed meanwhile. `declared`: (width, height) in pixels
    according to the annotations. The boxes refer to this size.
    """

    key: str
    path: Path
    class_name: str | None
    size: int
    mtime_ns: int
    boxes: tuple[Box, ...] = ()
    declared: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a data set that cannot be used. `key` names the picture, line or annotation.

    If `key` or `reason` is very long, it is truncated, because it may quote a file of annotations.
    """

    key: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", _cut(self.key))
        object.__setattr__(self, "reason", _cut(self.reason))


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures, with the problems and notes of the reader.

    `name`: last part of the path. `class_names`: all classes in the labels, sorted, even if they have no
    picture. `pictures`: sorted by key. `problems`: what is listed but cannot be used. `notes`: sentences
    for the user.
    """

    name: str
    path: Path
    kind: Kind
    task: Task
    class_names: tuple[str, ...]
    pictures: tuple[Picture, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Return the number of pictures of each class. If the pictures have boxes, count objects instead."""
        if self.task == "image-classification":
            counted = Counter(picture.class_name for picture in self.pictures)
        else:
            counted = Counter(box.class_name for picture in self.pictures for box in picture.boxes)
        return {name: counted[name] for name in self.class_names}


def long_name(name: str) -> str | None:
    """Return a message if a name is too long for a class, or None if it is not."""
    if len(name) <= MOST_NAME:
        return None
    return f"name of a class with {len(name)} characters (allowed: {MOST_NAME})"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 3]}..."
