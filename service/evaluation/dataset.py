"""Data sets: labelled pictures of a user, as the modules in `readers` return them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.zoo.card import Task

Kind = Literal["folder", "csv", "coco", "voc"]
MOST_NAME = 500
"""Most characters of a class's name. A longer text is not a name but, for example, a description."""
_MOST_TEXT = 1000


@dataclass(frozen=True, slots=True)
class Box:
    """An annotated object: its class, and its box in pixels of the upright original picture.

    Coordinates are continuous: x from 0 to the width of the picture and y from 0 to its height, so
    `right - left` is the width of the box. A box may reach over the edge of the picture.
    `crowd`: a group of objects (COCO's iscrowd). `difficult`: counts neither as found nor as missed (Pascal
    VOC). `area`: of the object in square pixels, as COCO annotates it; None means the area of the box.
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

    `key`: its path relative to the folder of pictures, with `/`; unique in a data set.
    `class_name`: what it shows, as the data set says it; None in a data set with boxes.
    `size` in bytes and `mtime_ns`: as listed. A file that differs when it is read has changed meanwhile.
    `declared`: (width, height) in pixels that the annotations give; the boxes refer to this size.
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
    """Something in a data set that cannot be used: `key` names the picture, line or annotation.

    `key` and `reason` are cut if they are very long, because they may quote a file of annotations.
    """

    key: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", _cut(self.key))
        object.__setattr__(self, "reason", _cut(self.reason))


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures, and what was found beside them.

    `name`: last part of the path. `class_names`: all that the labels name, sorted, also those without a
    picture. `pictures`: sorted by key. `problems`: what is listed but cannot be used. `notes`: sentences for
    people.
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
        """Return the number of pictures of each class, or of objects where pictures have boxes."""
        if self.task == "image-classification":
            counted = Counter(picture.class_name for picture in self.pictures)
        else:
            counted = Counter(box.class_name for picture in self.pictures for box in picture.boxes)
        return {name: counted[name] for name in self.class_names}


def long_name(name: str) -> str | None:
    """Return in words why a name is too long for a class, or None."""
    if len(name) <= MOST_NAME:
        return None
    return f"name of a class with {len(name)} characters (allowed: {MOST_NAME})"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 3]}..."
