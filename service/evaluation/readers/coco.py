"""Data set of COCO's JSON file: pictures with boxes (format: Lin et al. 2014, arXiv:1405.0312)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from models.zoo.display import counted, shown, without_surrogates
from models.zoo.files import not_text
from service.errors import InvalidDataset
from service.evaluation.dataset import Box, Dataset, Picture, Problem, long_name
from service.evaluation.readers.paths import MOST_PICTURES, AnnotatedFiles, File, read_file

MOST_BYTES = 512 << 20
"""Maximum size of a file. The file for COCO's 118 287 training pictures has 448 MiB."""
_LISTS = ("images", "annotations", "categories")


def read_coco(path: Path, images: Path | None = None) -> Dataset:
    """Return the pictures of a JSON file of instances, with their boxes.

    A picture without an annotation shows no object. An annotation that cannot be used becomes a problem of
    the data set. Its picture is kept, with the other annotations. Boxes that extend beyond the edge of the
    picture are not clipped, because pycocotools does not clip them. Paths are relative to `images` or to a
    folder below it (see AnnotatedFiles). If `images` is None, the folder of the file takes its place or, if
    that folder is called `annotations`, the folder above it.

    Raises InvalidDataset if the file has another format, or if none of its pictures exists.
    """
    where = f"--data {shown(path.name)}"
    content = _content(path, where)
    problems: list[Problem] = []
    names = _categories(content["categories"], problems)
    base = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
    declared = [image for image in content["images"] if isinstance(image, Mapping)]
    files = AnnotatedFiles(
        images or base, [name for image in declared if isinstance(name := image.get("file_name"), str)]
    )
    listed = Counter(
        image_id
        for annotation in content["annotations"]
        if isinstance(annotation, Mapping) and _is_id(image_id := annotation.get("image_id"))
    )
    pictures = _pictures(content["images"], files, listed, problems)
    boxes = _boxes(content["annotations"], names, pictures, content["images"], problems)
    found = [
        Picture(file.key, file.path, None, file.size, file.mtime_ns, tuple(boxes.get(image_id, ())), size)
        for image_id, (file, size) in pictures.items()
    ]
    if not found:
        first = f": {shown(problems[0].key)}: {problems[0].reason}" if problems else ""
        raise InvalidDataset(
            f"{where}: no picture is there{first} (allowed: --images DIR names their folder)"
        )
    if not boxes:
        raise InvalidDataset(
            f"{where}: no object in {len(found)} pictures (allowed: annotations with a bbox)"
        )
    if len(found) > MOST_PICTURES:
        raise InvalidDataset(f"{where}: {len(found)} pictures (allowed: {MOST_PICTURES})")
    return Dataset(
        name=path.name,
        path=path,
        kind="coco",
        task="object-detection",
        class_names=tuple(sorted(set(names.values()))),
        pictures=tuple(sorted(found, key=lambda picture: picture.key)),
        problems=tuple(problems),
        notes=tuple(files.notes()),
    )


def _content(path: Path, where: str) -> dict[str, list[Any]]:
    """Return the lists of the file: images, annotations and categories.

    The outlines of objects are dropped while the file is parsed.
    """
    content = read_file(path, MOST_BYTES)
    try:
        value = json.loads(content, object_hook=_without_outline)
    except UnicodeDecodeError as error:
        raise InvalidDataset(f"{where}: not text, {not_text(error)} (allowed: UTF-8)") from None
    except (ValueError, RecursionError) as error:
        place = f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidDataset(f"{where}: not valid JSON{place}") from None
    missing = [
        name for name in _LISTS if not isinstance(value, dict) or not isinstance(value.get(name), list)
    ]
    if missing:
        raise InvalidDataset(
            f"{where}: not COCO's file of instances, without a list of {', '.join(missing)} "
            f"(allowed: an object with {', '.join(_LISTS)})"
        )
    return {name: value[name] for name in _LISTS}


def _without_outline(value: dict[str, Any]) -> dict[str, Any]:
    if "segmentation" in value:
        value["segmentation"] = bool(value["segmentation"])
    return value


def _categories(given: list[Any], problems: list[Problem]) -> dict[int | str, str]:
    """Return the name of each category by its id."""
    names: dict[int | str, str] = {}
    for number, category in enumerate(given):
        category = category if isinstance(category, Mapping) else {}
        category_id, name = category.get("id"), category.get("name")
        name = without_surrogates(name.strip()) if isinstance(name, str) else ""
        key = f"categories[{number}]"
        if not _is_id(category_id):
            problems.append(Problem(key, "no id"))
        elif not name:
            problems.append(Problem(key, f"no name of category {shown(category_id)}"))
        elif (long := long_name(name)) is not None:
            problems.append(Problem(key, long))
        elif names.setdefault(category_id, name) != name:
            problems.append(
                Problem(key, f"category {shown(category_id)} is declared twice; the first counts")
            )
    return names


def _pictures(
    given: list[Any], files: AnnotatedFiles, listed: Counter[Any], problems: list[Problem]
) -> dict[int | str, tuple[File, tuple[int, int] | None]]:
    """Return, by id, the file and the declared (width, height) of each picture that exists."""
    pictures: dict[int | str, tuple[File, tuple[int, int] | None]] = {}
    keys: dict[str, int | str] = {}
    for number, image in enumerate(given):
        image = image if isinstance(image, Mapping) else {}
        image_id, name = image.get("id"), image.get("file_name")
        if not _is_id(image_id) or not isinstance(name, str):
            problems.append(Problem(f"images[{number}]", f"no {'file_name' if _is_id(image_id) else 'id'}"))
            continue
        key = without_surrogates(name)[:300]
        if image_id in pictures:
            problems.append(Problem(key, f"has the id {shown(image_id)} of another picture; left out"))
            continue
        file = files.find(name)
        if not isinstance(file, File):
            count = listed[image_id]
            objects = f", {counted(count, 'annotation', 'annotations')}" if count else ""
            problems.append(Problem(key, f"{file}{objects}"))
        elif keys.setdefault(file.key, image_id) != image_id:
            first = shown(keys[file.key])
            problems.append(Problem(key, f"is the file of picture {first} already; the first counts"))
        else:
            pictures[image_id] = file, declared_size(image.get("width"), image.get("height"))
    return pictures


def _boxes(
    given: list[Any],
    names: Mapping[int | str, str],
    pictures: Mapping[int | str, tuple[File, tuple[int, int] | None]],
    images: list[Any],
    problems: list[Problem],
) -> dict[int | str, list[Box]]:
    """Return the boxes of each picture, by the picture's id."""
    reported = {image.get("id") for image in images if isinstance(image, Mapping) and _is_id(image.get("id"))}
    boxes: dict[int | str, list[Box]] = {}
    known: dict[int | str, set[Box]] = {}
    strangers: Counter[int | str] = Counter()
    for number, annotation in enumerate(given):
        annotation = annotation if isinstance(annotation, Mapping) else {}
        image_id = annotation.get("image_id")
        if not _is_id(image_id):
            problems.append(Problem(f"annotations[{number}]", "no image_id"))
        elif image_id not in pictures:
            strangers[image_id] += image_id not in reported
        else:
            file, size = pictures[image_id]
            box = _box(annotation, names, size)
            if isinstance(box, str):
                problems.append(Problem(f"{file.key}: annotations[{number}]", box))
            elif box in known.setdefault(image_id, set()):
                problems.append(
                    Problem(f"{file.key}: annotations[{number}]", "is there already; counts once")
                )
            else:
                known[image_id].add(box)
                boxes.setdefault(image_id, []).append(box)
    for image_id, count in strangers.items():
        if count:
            annotations = "1 annotation" if count == 1 else f"{count} annotations"
            problems.append(Problem(f"image_id {shown(image_id)}", f"no such picture, {annotations}"))
    return boxes


def _box(
    annotation: Mapping[str, Any], names: Mapping[int | str, str], size: tuple[int, int] | None
) -> Box | str:
    """Return the box of an annotation, or a message that says why the annotation cannot be used."""
    category = annotation.get("category_id")
    if not _is_id(category):
        return "no category_id"
    if category not in names:
        return f"category {shown(category)} is not declared"
    given = annotation.get("bbox")
    if given in (None, []):
        outline = " but an outline (segmentation)" if annotation.get("segmentation") else ""
        return f"no bbox{outline} (allowed: bbox [x, y, width, height])"
    if not isinstance(given, list) or len(given) != 4 or not all(map(_is_number, given)):
        return "bbox is not 4 finite numbers (allowed: [x, y, width, height])"
    left, top, width, height = map(float, given)
    problem = box_problem(left, top, left + width, top + height, size)
    if problem:
        return problem
    area = annotation.get("area")
    return Box(
        names[category],
        left,
        top,
        left + width,
        top + height,
        crowd=annotation.get("iscrowd") in (1, True),
        area=float(area) if _is_number(area) and area > 0 else None,
    )


def box_problem(
    left: float, top: float, right: float, bottom: float, size: tuple[int, int] | None
) -> str | None:
    """Return a message that says why a box cannot be the box of an object, or None if it can.

    `size`: width and height of the picture, or None if they are unknown.
    """
    if not (right > left and bottom > top):
        return f"box of {right - left:g} x {bottom - top:g} pixels"
    width, height = size or (math.inf, math.inf)
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        return f"box outside of the picture, {left:g}, {top:g} to {right:g}, {bottom:g}"
    return None


def declared_size(width: object, height: object) -> tuple[int, int] | None:
    """Return (width, height) if the two are whole positive numbers, or None if they are not."""
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None


def _is_id(value: object) -> TypeGuard[int | str]:
    """Return whether a value can be an id: a whole number, or the text that some tools write as an id."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, str) and value != ""
    )


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False
