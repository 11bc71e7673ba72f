"""Pictures with known people, vehicles and faces: three with boxes, the others with marks set by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skimage.data
from PIL import Image

CACHE = Path(__file__).parents[2] / ".cache"
PEOPLE = CACHE / "people"
PHOTOS = CACHE / "photos"
COUNTED = Path(__file__).with_name("counted.json")
"""Marks set by hand, as x and y in pixels.

`people`: by frame of vtest.avi, a mark in the middle of every person of whom at least about half is visible.
`faces`: by picture, a mark on every face that is in focus and not turned away.
"""
FACELESS = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04")
"""Packages of `make photos` whose photographs show no people."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
Point = tuple[float, float]


class MissingPicturesError(Exception):
    """The pictures have not been downloaded."""


@dataclass(frozen=True)
class Picture:
    """An encoded image and the objects to find in it.

    The objects are given either by `boxes`, each with its label, or by `points`, which are marks set by hand.
    """

    name: str
    content: bytes
    boxes: tuple[tuple[str, Box], ...] = ()
    points: tuple[Point, ...] = ()


def labelled(folder: Path = PEOPLE) -> list[Picture]:
    """Return the three photographs of labelme-examples with their boxes."""
    pictures = []
    for path in sorted(_fetched(folder).glob("2011_*.json")):
        shapes = json.loads(path.read_text())["shapes"]
        boxes = tuple((shape["label"], _box(shape["points"])) for shape in shapes)
        photo = path.with_suffix(".jpg")
        pictures.append(Picture(photo.name, photo.read_bytes(), boxes))
    return pictures


def _box(points: list[list[float]]) -> Box:
    (left, top), (right, bottom) = points
    return (min(left, right), min(top, bottom), max(left, right), max(top, bottom))


def pedestrians(folder: Path = PEOPLE) -> Iterator[Picture]:
    """Yield the marked frames of vtest.avi, 768 x 576 pixels, as PNG."""
    import cv2

    counted = _counted("people")
    video = cv2.VideoCapture(str(_fetched(folder) / "vtest.avi"))
    for number in range(int(video.get(cv2.CAP_PROP_FRAME_COUNT))):
        read, frame = video.read()
        if read and str(number) in counted:
            encoded = cv2.imencode(".png", frame)[1]
            yield Picture(f"frame {number}", encoded.tobytes(), points=counted[str(number)])


def faces(folder: Path = PEOPLE, photos: Path = PHOTOS) -> Iterator[Picture]:
    """Yield the pictures in which faces are marked, and photographs that show no face."""
    for name, points in _counted("faces").items():
        path = _fetched(folder) / name
        yield Picture(name, path.read_bytes() if path.suffix else _scikit_image(name), points=points)
    for package in FACELESS:
        for path in sorted((photos / package).glob("*.jpg")):
            yield Picture(path.name, path.read_bytes())


def _scikit_image(name: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(getattr(skimage.data, name)()).save(content, "PNG")
    return content.getvalue()


def _fetched(folder: Path) -> Path:
    if not folder.is_dir():
        raise MissingPicturesError(f"{folder}: not there; run: make people photos")
    return folder


def _counted(what: str) -> dict[str, tuple[Point, ...]]:
    marks: dict[str, Any] = json.loads(COUNTED.read_text())[what]
    return {name: tuple((x, y) for x, y in points) for name, points in marks.items()}
