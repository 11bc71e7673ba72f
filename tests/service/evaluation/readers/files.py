"""Small data sets that tests write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image


def picture(path: Path, value: int = 0, size: tuple[int, int] = (8, 6)) -> Path:
    """Write a grey picture of (width, height) pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def pictures(folder: Path, *names: str) -> Path:
    """Write a picture at each path below the folder."""
    for number, name in enumerate(names):
        picture(folder / name, number)
    return folder


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write text without translation of its line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def coco(path: Path, **changes: Any) -> Path:
    """Write a file of one picture, a.png of 8 x 6 pixels, with one cat; `changes` replace its lists."""
    content: Mapping[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
        "annotations": [annotation()],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    }
    return written(path, json.dumps({**content, **changes}))


def annotation(**changes: Any) -> dict[str, Any]:
    """Return an annotation of a cat in picture 1."""
    return {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 3.5], "iscrowd": 0} | changes


def voc_object(name: str = "cat", corners: tuple[object, ...] = (2, 3, 4, 6), more: str = "") -> str:
    """Return an object in Pascal VOC's XML."""
    left, top, right, bottom = corners
    box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def voc(path: Path, *objects: str, filename: str = "a.png", size: tuple[int, int] = (8, 6)) -> Path:
    """Write an annotation of Pascal VOC."""
    width, height = size
    return written(
        path,
        f"<annotation><filename>{filename}</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{''.join(objects)}</annotation>",
    )
