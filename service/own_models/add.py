"""Add an ONNX file to a zoo: read and run it, write its card, and move the complete folder into place."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from models.zoo.card import Card, Fact, Name, write_card
from service.errors import ModelExists, RefusedModel
from service.own_models.draft import Draft
from service.own_models.facts import in_form_words, words
from service.own_models.folders import check_free, move_in, remove, workplace
from service.own_models.sources.labels import BuiltIn
from service.own_models.sources.reading import read_file
from service.own_models.trial import Bounds, TrialFailed, serve_once

__all__ = ["Added", "Bounds", "Options", "add", "remove"]

_NAME = TypeAdapter(Name)
_RESERVED = frozenset({"networks", "models"})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The user's options for adding a file. An option that the user did not give is None.

    `labels`: a file, or the name of a built-in label set; a `str` may be either. `label_set`: the name for
    the label set that these labels form. `images`: a folder with one subfolder of pictures per class;
    `mapping`: a file that maps the subfolders' names to labels. `facts`: facts of the card by path, e.g.
    {"input.layout": "nhwc"}, with values as in the card's schema. Two further paths are allowed: `input.size`
    for (height, width), and `output` for the name of the graph's output. `from_form`: whether the options
    come from an HTTP form. If they do, the card's notes name form fields instead of command line options.
    """

    name: str | None = None
    labels: str | Path | BuiltIn | None = None
    label_set: str | None = None
    images: Path | None = None
    mapping: Path | None = None
    preset: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    from_form: bool = False


@dataclass(frozen=True)
class Added:
    """A model that was added to a zoo.

    `folder` contains `model.onnx`, `card.json` and, if needed, `labels.txt` and `classifier.npz`. `changes`:
    differences between the served file and the file that the user gave. `warnings`: uncertain facts, one line
    each.
    """

    folder: Path
    card: Card
    changes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Built:
    """A model whose folder is complete, but has not been moved into the zoo yet."""

    card: Card
    changes: tuple[str, ...]
    warnings: tuple[str, ...]


def add(
    file: Path,
    options: Options,
    *,
    to: Path,
    replace: bool = False,
    bounds: Bounds | None = None,
    taken: Collection[str] = (),
) -> Added:
    """Add the ONNX `file` as a model to the zoo folder `to`, which is created if it is missing.

    A child process loads and runs the file within `bounds` before this process passes it to ONNX Runtime.
    `taken`: names of models in folders that are searched before `to`. Raises RefusedModel, and
    StorageUnavailable if `to` cannot be written. Raises ModelExists if the name is in `taken`, or if `to` has
    a model of this name and `replace` is False. After an error, `to` is unchanged.
    """
    name = model_name(file, options.name)
    if name in taken:
        raise ModelExists(f"model '{name}': exists in WEIGHIN_MODEL_DIRS (allowed: another --name)")
    check_free(to, name, replace=replace)
    content = read_file(file)
    with workplace(to, name) as folder:
        built = build(file, content, options, folder, bounds or Bounds())
        return Added(move_in(folder, to, replace=replace), built.card, built.changes, built.warnings)


def build(file: Path, content: bytes, options: Options, folder: Path, bounds: Bounds) -> Built:
    """Make a model from an ONNX file and write it to `folder`, whose name is the model's name.

    `content`: the content of `file`, with its external tensors. Raises RefusedModel, and OSError if `folder`
    cannot be written.
    """
    draft = Draft(
        file, content, folder, bounds, flags=options.facts, preset=options.preset,
        labels=options.labels, label_set=options.label_set,
    )  # fmt: skip
    card = draft.card()
    if options.images is not None:
        card = draft.judged(card, options.images, options.mapping)
    if options.from_form:
        card = card.model_copy(update={"provenance": _of_form(card.provenance)})
    write_card(folder, card)
    try:
        serve_once(folder, bounds)
    except TrialFailed as error:
        raise TrialFailed(f"{file.name}: {error}") from None
    return Built(card, draft.changes, draft.warnings(card))


def _of_form(provenance: Mapping[str, Fact]) -> dict[str, Fact]:
    """Return a card's `provenance`, with form fields in place of command line options."""
    return {
        path: Fact(origin="flag", detail=in_form_words(fact.detail))
        if fact.origin == "flag" and fact.detail is not None
        else fact
        for path, fact in provenance.items()
    }


def model_name(file: Path, given: str | None) -> str:
    """Return the name for a new model: `given`, or a name made from the file's path if `given` is None.

    Raises RefusedModel if `given` is not a valid name.
    """
    if given is None:
        path = file.absolute()
        places = [path.stem, *(folder.name for folder in path.parents)]
        stem = next((place for place in places if place.lower() not in ("model", "onnx", "")), "model")
        given = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-._")[:64] or "model"
    return check_name(given)


def check_name(given: str) -> str:
    """Return `given` if it is a valid model name. Raises RefusedModel if it is not."""
    try:
        name: str = _NAME.validate_python(given)
    except ValidationError:
        name = ""
    if not name or name.lower() in _RESERVED:
        raise RefusedModel(
            f"--name '{words(given)}': not a name (allowed: 1 to 64 letters, digits, '_', '.' and '-', the "
            f"first a letter or digit; not {', '.join(sorted(_RESERVED))})"
        )
    return name
