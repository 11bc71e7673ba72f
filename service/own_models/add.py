"""From an ONNX file to a folder of the zoo: read, run once, described, written whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.zoo.card import Card


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user says of a file; None where nothing is said.

    `labels`: a file, or the name of a built-in label set. `images`: a folder of labelled pictures.
    `facts`: facts of the card by path, e.g. {"input.layout": "nhwc"}, with the values of the card's schema;
    `input.size` is (height, width).
    """

    name: str | None = None
    labels: str | Path | None = None
    images: Path | None = None
    mapping: Path | None = None
    preset: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Added:
    """A model that was added.

    `folder` holds `model.onnx`, `card.json` and, if needed, `labels.txt` and `classifier.npz`. `changes`: in
    which ways the file served differs from the one given. `warnings`: what is not certain, a line each.
    """

    folder: Path
    card: Card
    changes: tuple[str, ...]
    warnings: tuple[str, ...]


def add(file: Path, options: Options, *, to: Path, replace: bool = False) -> Added:
    """Add the ONNX `file` as a model to the zoo folder `to`, which is made if it is missing.

    Raises RefusedModel, ModelExists without `replace`, and StorageUnavailable where `to` cannot be written;
    `to` is then as it was.
    """
    raise NotImplementedError


def remove(name: str, *, root: Path) -> None:
    """Remove the model `name` from the zoo folder `root`. Raises UnknownModel and StorageUnavailable."""
    raise NotImplementedError
