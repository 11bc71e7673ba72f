"""Data set of Pascal VOC: an XML file of boxes per picture.

Source: Everingham & Winn, The PASCAL Visual Object Classes Challenge 2012 development kit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

from models.zoo.display import counted, shown, without_surrogates
from service.errors import InvalidDataset, error_words
from service.evaluation.dataset import Box, Dataset, Picture, Problem, long_name
from service.evaluation.readers.coco import box_problem, declared_size
from service.evaluation.readers.paths import MOST_PICTURES, AnnotatedFiles, File, ignored, read_file

MOST_BYTES = 4 << 20
"""Maximum size of an XML file."""
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _NotAnnotated(Exception):
    """An XML file is not the annotation of a picture. The message gives the reason."""


def annotations_in(path: Path) -> Path | None:
    """Return the folder of a data set's XML files, which is `Annotations` in `path`, or `path` itself.

    Return None if neither of the two folders has an XML file. Raises InvalidDataset if a folder cannot be
    listed.
    """
    try:
        inner = [folder for folder in sorted(path.iterdir()) if folder.name.lower() == "annotations"]
        return next((folder for folder in [*inner, path] if _xml_files(folder)), None)
    except NotADirectoryError:
        return None
    except OSError as error:
        raise InvalidDataset(f"--data {shown(path.name)}: cannot be listed, {error_words(error)}") from None


def _xml_files(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() == ".xml" and not ignored(file.name)
    )


def read_voc(path: Path, annotations: Path, images: Path | None = None) -> Dataset:
    """Return the pictures that the XML files in `annotations` name, with their boxes.

    Pascal VOC counts pixels from 1, and a box includes its last pixel: `xmin` 1 is the left edge of the
    picture. But if any box begins below 1, all coordinates of the data set are read as continuous, from 0. An
    object that cannot be used becomes a problem of the data set and is left out. If the picture that an XML
    file names does not exist, the XML file belongs to the picture with the name of the XML file (without
    suffix). The paths of pictures in the XML files are relative to `images`, by default the data set's
    folder, or to a folder below it (see AnnotatedFiles).

    A file with a document type is refused, because it could define entities that grow without bound or read
    other files. Raises InvalidDataset if no picture exists.
    """
    where = f"--data {shown(path.name)}"
    problems: list[Problem] = []
    documents: list[tuple[str, str, Element]] = []
    for file in _xml_files(annotations)[: MOST_PICTURES + 1]:
        try:
            root = _root(file)
            documents.append((without_surrogates(file.name), _text(root, "filename") or file.stem, root))
        except (_NotAnnotated, InvalidDataset) as error:
            problems.append(Problem(without_surrogates(file.name), str(error).removeprefix(f"{file.name}: ")))
    if len(documents) > MOST_PICTURES:
        raise InvalidDataset(f"{where}: more than {MOST_PICTURES} pictures")
    files = AnnotatedFiles(images or path, [name for _, name, _ in documents])
    first = _first_pixel([root for _, _, root in documents])
    pictures: dict[str, Picture] = {}
    names: set[str] = set()
    for document, name, root in documents:
        size = root.find("size")
        declared = None if size is None else declared_size(_whole(size, "width"), _whole(size, "height"))
        boxes = _boxes(document, root, first, declared, names, problems)
        picture = files.find(name)
        if not isinstance(picture, File):
            own = files.find(Path(document).stem)
            if not isinstance(own, File):
                objects = f", {counted(len(boxes), 'object', 'objects')}" if boxes else ""
                problems.append(Problem(document, f"{shown(name)}: {picture}{objects}"))
                continue
            picture = own
        if picture.key in pictures:
            problems.append(Problem(document, f"annotates {picture.key} once more; the first counts"))
            continue
        pictures[picture.key] = Picture(
            picture.key, picture.path, None, picture.size, picture.mtime_ns, boxes, declared
        )
    if not pictures:
        reason = f": {shown(problems[0].key)}: {problems[0].reason}" if problems else ""
        raise InvalidDataset(
            f"{where}: no picture is there{reason} (allowed: --images DIR names their folder)"
        )
    if not any(picture.boxes for picture in pictures.values()):
        raise InvalidDataset(f"{where}: no object in {len(pictures)} pictures (allowed: object with bndbox)")
    zero = [] if first else ["a coordinate is below 1, so all count from 0, not from 1 as in Pascal VOC"]
    return Dataset(
        name=path.name,
        path=path,
        kind="voc",
        task="object-detection",
        class_names=tuple(sorted(names)),
        pictures=tuple(sorted(pictures.values(), key=lambda picture: picture.key)),
        problems=tuple(problems),
        notes=(*zero, *files.notes()),
    )


def _root(file: Path) -> Element:
    """Return the element `annotation` of an XML file. Raises _NotAnnotated and InvalidDataset."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(read_file(file, MOST_BYTES), True)
        root: Element = builder.close()
    except (expat.ExpatError, ParseError) as error:
        raise _NotAnnotated(f"not valid XML, {error}") from None
    except (AssertionError, LookupError, ValueError):  # an empty document, an unknown encoding
        raise _NotAnnotated("not valid XML") from None
    if root.tag != "annotation":
        raise _NotAnnotated(f"begins with {shown(root.tag)[:60]} (allowed: annotation)")
    return root


def _refuse_doctype(*_: object) -> None:
    raise _NotAnnotated("has a document type, which is not read (allowed: XML without <!DOCTYPE>)")


def _text(element: Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _number(element: Element, name: str) -> float | None:
    try:
        value = float(_text(element, name))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(element: Element, name: str) -> int | None:
    value = _number(element, name)
    return None if value is None else int(value)


def _first_pixel(roots: Sequence[Element]) -> int:
    """Return the coordinate of the first pixel. It is 0 if any box begins below 1, and 1 otherwise."""
    corners = (
        _number(box, name)
        for root in roots
        for box in root.iterfind("object/bndbox")
        for name in ("xmin", "ymin")
    )
    return int(all(corner is None or corner >= 1 for corner in corners))


def _boxes(
    document: str,
    root: Element,
    first: int,
    size: tuple[int, int] | None,
    names: set[str],
    problems: list[Problem],
) -> tuple[Box, ...]:
    """Return the distinct boxes of an annotation, and add the names of their classes to `names`."""
    boxes: dict[Box, None] = {}
    for number, element in enumerate(root.iterfind("object"), 1):
        name = without_surrogates(_text(element, "name"))
        long = long_name(name)
        if name and long is None:
            names.add(name)
        box = long or _box(element, name, first, size)
        if isinstance(box, str):
            problems.append(Problem(f"{document}: object {number}", box))
        elif box in boxes:
            problems.append(Problem(f"{document}: object {number}", "is there already; counts once"))
        else:
            boxes[box] = None
    return tuple(boxes)


def _box(element: Element, name: str, first: int, size: tuple[int, int] | None) -> Box | str:
    """Return the box of an object, or a message that says why the object cannot be used."""
    if not name:
        return "no name"
    given = element.find("bndbox")
    if given is None:
        return "no bndbox"
    corners = [_number(given, corner) for corner in _CORNERS]
    missing = [corner for corner, value in zip(_CORNERS, corners, strict=True) if value is None]
    if missing:
        return f"no finite number as {', '.join(missing)}"
    left, top, right, bottom = (value for value in corners if value is not None)
    left, top = left - first, top - first
    problem = box_problem(left, top, right, bottom, size)
    return problem or Box(
        name, left, top, right, bottom, difficult=_text(element, "difficult").lower() in ("1", "true")
    )
