"""Labelled pictures in one folder per class. The folder's name, or a mapping file, gives the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import InvalidDataset, RefusedModel, error_words
from service.evaluation.classes import LEFT_OUT, Labels, composed, read_mapping, unknown_in_mapping
from service.own_models.facts import words


@dataclass(frozen=True)
class Labelled:
    """A picture and the class that it shows."""

    path: Path
    class_id: int


def labelled_pictures(
    images: Path, labels: Sequence[str], label_set: str, mapping: Path | None, *, option: str = "--images"
) -> list[Labelled]:
    """Return the files in the subfolders of `images`, each with its class id, sorted by path.

    A subfolder belongs to the label that its name matches (`service.evaluation.classes.Labels`). `mapping`: a
    file that maps subfolders to labels or class ids, as JSON or as lines `FOLDER = LABEL`; the label `-`
    excludes a subfolder. `option`: the option to name in messages. Raises RefusedModel for a subfolder that
    matches no label or several.
    """
    try:
        folders = sorted(path for path in images.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise RefusedModel(f"{option} {images.name}: cannot be read, {error_words(error)}") from None
    try:
        mapped = {} if mapping is None else read_mapping(mapping, what="FOLDER")
    except InvalidDataset as error:
        raise RefusedModel(str(error)) from None
    missing = unknown_in_mapping(mapped, (folder.name for folder in folders))
    if missing:
        raise RefusedModel(f"--mapping: no such folder in {option}: {', '.join(map(words, missing[:5]))}")
    lookup = Labels(labels, label_set)
    pictures: list[Labelled] = []
    unmatched = []
    for folder in folders:
        target = mapped.get(composed(folder.name), folder.name)
        if target == LEFT_OUT:
            continue
        found = lookup.ids(target)
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
