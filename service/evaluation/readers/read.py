"""Read a data set: detect the layout of a path, and call the reader for this layout."""

from __future__ import annotations

from pathlib import Path

from models.zoo.display import shown
from service.errors import InvalidDataset, error_words
from service.evaluation.dataset import Dataset
from service.evaluation.readers.coco import read_coco
from service.evaluation.readers.csv_file import read_csv
from service.evaluation.readers.folders import read_folders
from service.evaluation.readers.paths import LAYOUTS, ignored
from service.evaluation.readers.voc import annotations_in, read_voc

_TABLES = (".csv", ".tsv", ".txt")


def read_dataset(path: Path, images: Path | None = None) -> Dataset:
    """Return the data set at `path`: a folder per class, a CSV file, COCO's JSON file, or Pascal VOC.

    `images`: the folder of the pictures that annotations name. The paths in annotations are relative to this
    folder or to a folder below it, and must not lead out of it. If `images` is None, the reader chooses the
    folder. No picture is decoded. Raises InvalidDataset if there is nothing to evaluate. Smaller faults
    become problems or notes of the data set.
    """
    path = Path(path).absolute()
    if path.name in ("", ".."):
        path = path.resolve()
    try:
        is_folder = path.is_dir()
        exists = is_folder or path.exists()
    except (OSError, ValueError) as error:
        words = error_words(error) if isinstance(error, OSError) else "not a path"
        raise InvalidDataset(f"--data {shown(path.name)}: cannot be read, {words}") from None
    if not exists:
        raise InvalidDataset(f"--data {shown(path.name)}: no such file or folder {LAYOUTS}")
    if images is not None:
        images = Path(images).absolute()
        if not images.is_dir():
            raise InvalidDataset(f"--images {shown(images.name)}: no such folder")
    return _read_folder(path, images) if is_folder else _read_file(path, images)


def _read_file(path: Path, images: Path | None) -> Dataset:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return read_coco(path, images)
    if suffix in _TABLES:
        return read_csv(path, images)
    raise InvalidDataset(f"--data {shown(path.name)}: not a data set {LAYOUTS}")


def _read_folder(path: Path, images: Path | None) -> Dataset:
    annotations = annotations_in(path)
    if annotations is not None:
        return read_voc(path, annotations, images)
    given = _json_files(path)
    if len(given) == 1:
        return read_coco(given[0], images)
    if given:
        names = ", ".join(shown(file.relative_to(path).as_posix()) for file in given[:5])
        raise InvalidDataset(
            f"--data {shown(path.name)}: {len(given)} files of annotations (allowed: one of them: {names})"
        )
    if images is not None:
        raise InvalidDataset("--images: only for annotations, whose paths begin there (allowed: without it)")
    return read_folders(path)


def _json_files(path: Path) -> list[Path]:
    """Return the JSON files of COCO in a folder.

    These are the files in its folder `annotations`, or the files directly in the folder, beside the pictures.
    """
    try:
        names = sorted(path.iterdir())
        inner = [
            file for folder in names if folder.name.lower() == "annotations" for file in _json_in(folder)
        ]
        instances = [file for file in inner if file.name.lower().startswith("instances")]
        return instances or inner or [file for file in _json_in(path) if ".coco." in file.name.lower()]
    except OSError:
        return []


def _json_in(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() == ".json" and not ignored(file.name)
    )
