"""The two networks of a gate: found by name, folder or ONNX file, and put into one temporary zoo."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.zoo.card import Card, read_card, write_card
from models.zoo.display import shown
from models.zoo.files import write_whole
from models.zoo.labels import read_labels
from service.errors import InvalidParameter, ModelUnavailable, RefusedModel, error_words
from service.inference.loading import UnusableModel, read_entry, read_model_file
from service.inference.registry import Registry
from service.own_models.add import Bounds, Options, build
from service.own_models.sources.reading import read_file
from service.own_models.trial import serve_once

Role = Literal["base", "new"]
Kind = Literal["model", "folder", "file"]

_NOT_PREPARED = {"name", "batch"}
"""Fields of a card's input that do not affect how pictures are prepared."""
_TASKS = {"image-classification": "classifies images", "object-detection": "detects objects"}


@dataclass(frozen=True)
class Source:
    """An object says where a network comes from.

    `given` is the text of --base or --new. `kind` says whether this text means a model of the zoo, a folder
    or a file. `path` is the folder with the network's card, or the ONNX file.
    """

    role: Role
    given: str
    kind: Kind
    path: Path


@dataclass(frozen=True)
class Doubts:
    """What is assumed about two networks, because their files do not state it.

    `unlike` says in words why their accuracies cannot be compared; it is None if they can. `notes` say what
    is assumed.
    """

    unlike: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A network in the temporary zoo, where it is a model named `base` or `new`.

    `notes` say what is assumed about the network, and what was changed to serve it.
    """

    source: Source
    folder: Path
    card: Card
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def find(role: Role, given: str, registry: Callable[[], Registry]) -> Source | None:
    """Return the network that `--base` or `--new` names, or None if the text is a path where nothing exists.

    A text that contains a slash or ends in .onnx is a path. Any other text is the name of a model of the
    registry. If no model has this name but a file or folder has it, the text is a path. If the folder of an
    ONNX file has a card that describes this file, the folder is used. Raises UnknownModel and the errors of
    `registry`. Raises InvalidParameter for an empty text, a link to nothing, or a path that cannot be read.
    """
    if not given.strip():
        raise InvalidParameter(f"--{role}: empty (allowed: a model, a folder with a card, an ONNX file)")
    path = Path(given)
    must_be_path = path.name != given or path.suffix.lower() == ".onnx"
    if not must_be_path:
        models = registry()
        if given in models.names() or not os.path.lexists(path):
            return Source(role, given, "model", models.entry(given).folder)
    try:
        path.stat()
    except FileNotFoundError:
        there = next((each for each in (path, *path.parents) if os.path.lexists(each)), Path())
        if not there.exists():
            which = "" if there == path else f"its folder {shown(there)} is "
            raise InvalidParameter(
                f"--{role} {shown(given)}: {which}a link to nothing (allowed: a file)"
            ) from None
        return None
    except OSError as error:  # e.g. a path below a file, or links that form a circle
        raise InvalidParameter(f"--{role} {shown(given)}: cannot be read: {error_words(error)}") from None
    if path.is_dir():
        return Source(role, given, "folder", path)
    if _describes(path):
        return Source(role, given, "folder", path.parent)
    return Source(role, given, "file", path)


def place(source: Source, zoo: Path) -> Subject:
    """Put the network into `zoo`, a folder of models, as the model `base` or `new`.

    An ONNX file without a card gets the card that `weighin add` would write. The network is run once, in a
    child process. Raises RefusedModel or ModelUnavailable with the reason if the network cannot be used, and
    OSError if `zoo` cannot be written.
    """
    try:
        return _placed(source, zoo)
    except (RefusedModel, ModelUnavailable) as error:
        raise type(error)(f"--{source.role} {shown(source.given)}: {error.detail}") from None


def _placed(source: Source, zoo: Path) -> Subject:
    folder = zoo / source.role
    folder.mkdir()
    if source.kind == "file":
        built = build(source.path, read_file(source.path), Options(), folder, Bounds())
        notes = (*(f"changed: {change}" for change in built.changes), *built.warnings)
        return Subject(source, folder, built.card, read_labels(built.card, folder), notes)
    entry = read_entry(source.path, require_name=False)
    if entry.card is None:
        raise ModelUnavailable(f"cannot be used: {entry.reason}")
    try:
        content = read_model_file(source.path, entry.card)
        labels = read_labels(entry.card, source.path)
    except (UnusableModel, OSError, ValueError) as error:
        reason = error_words(error) if isinstance(error, OSError) else str(error)
        raise ModelUnavailable(f"cannot be used: {reason}") from None
    card = entry.card.model_copy(update={"name": source.role})
    write_whole(folder / card.file.name, content)
    write_whole(folder / "labels.txt", "".join(f"{label}\n" for label in labels).encode())
    write_card(folder, card)
    serve_once(folder, Bounds())
    doubtful = ", ".join(card.doubtful)
    notes = (f"assumed, predictions may be wrong: {doubtful}",) if doubtful else ()
    return Subject(source, folder, card, labels, notes)


def check_alike(base: Subject, new: Subject) -> Subject:
    """Return `new` with the name of the base's label set, because both have the same labels.

    Raises InvalidParameter if the networks differ in task, input size, input channels or labels.
    """
    difference = next(_differences(base, new), None)
    if difference is not None:
        raise InvalidParameter(f"--base and --new: {difference} (allowed: alike in all three)")
    card = new.card.model_copy(update={"labels": base.card.labels})
    write_card(new.folder, card)
    return Subject(new.source, new.folder, card, new.labels, new.notes)


def compare_doubts(base: Subject, new: Subject) -> Doubts:
    """Compare the facts that the cards of both networks only assume, and on which the predictions depend.

    An assumption that is wrong for only one network can hide a loss, or show a loss that does not exist. If
    the same is assumed of both networks and pictures are prepared alike for both, an assumption is probably
    wrong for both or for neither.
    """
    doubtful = {subject.source.role: subject.card.doubtful for subject in (base, new)}
    if not any(doubtful.values()):
        return Doubts(None, ())
    facts = sorted({fact for of_one in doubtful.values() for fact in of_one})
    if set(doubtful["base"]) == set(doubtful["new"]):
        unlike = [fact for fact in facts if _value(base.card, fact) != _value(new.card, fact)]
        prepared = [subject.card.input.model_dump(exclude=_NOT_PREPARED) for subject in (base, new)]
        unlike += [f"input.{name}" for name in prepared[0] if prepared[0][name] != prepared[1][name]]
        if not unlike:
            return Doubts(None, (f"accuracy rests on what is assumed of both alike: {', '.join(facts)}",))
        words = f"both rest on assumptions and differ in {', '.join(dict.fromkeys(unlike))}"
    else:
        of_each = [f"{', '.join(of_one) or 'nothing'} of {role}" for role, of_one in doubtful.items()]
        words = f"it would rest on what is only assumed: {'; '.join(of_each)}"
    options = " and ".join(f"--{role}" for role, of_one in doubtful.items() if of_one)
    return Doubts(
        f"{words}; give {options} as a folder whose card.json states these facts (`weighin add` writes one "
        "with the facts that its options give)",
        (),
    )


def _value(card: Card, fact: str) -> object:
    """Return the value of a fact by its path in the card.

    For labels, return None, because `check_alike` compares them.
    """
    value: Any = None if fact == "labels" else card.model_dump()
    for part in fact.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def same_source(base: Source, new: Source) -> bool:
    """Return whether both options name the same file or folder, even by different paths.

    A folder and the ONNX file of the network in this folder also count as the same.
    """
    if (base.kind == "file") != (new.kind == "file"):
        return bool(_paths(base) & _paths(new))
    return os.path.realpath(base.path) == os.path.realpath(new.path)


def identical(base: Subject, new: Subject) -> bool:
    """Return whether both networks have the same file, task, inputs, outputs and labels."""
    read = {"input", "outputs", "detection", "classes", "task"}
    same_cards = base.card.model_dump(include=read) == new.card.model_dump(include=read)
    return base.card.file.sha256 == new.card.file.sha256 and same_cards and base.labels == new.labels


def _paths(source: Source) -> set[str]:
    """Return the real paths of a source.

    These are the path of the file, or the paths of the folder and of the file that the folder's card names.
    """
    paths = {os.path.realpath(source.path)}
    if source.kind != "file":
        with contextlib.suppress(OSError, ValueError):
            paths.add(os.path.realpath(source.path / read_card(source.path).file.name))
    return paths


def _describes(file: Path) -> bool:
    """Return whether a valid card in the folder of `file` describes exactly this file."""
    try:
        card = read_card(file.parent)
        if card.file.name != file.name:
            return False
        read_model_file(file.parent, card)
    except (OSError, ValueError, UnusableModel):
        return False
    return True


def _differences(base: Subject, new: Subject) -> Iterator[str]:
    if base.card.task != new.card.task:
        yield f"unlike tasks: base {_TASKS[base.card.task]}, new {_TASKS[new.card.task]}"
    shapes = [
        " x ".join(map(str, (spec.channels, spec.height, spec.width)))
        for spec in (base.card.input, new.card.input)
    ]
    if shapes[0] != shapes[1]:
        yield f"unlike inputs: base takes {shapes[0]}, new {shapes[1]} (channels x height x width)"
    if len(base.labels) != len(new.labels):
        yield f"unlike labels: base has {len(base.labels)} classes, new {len(new.labels)}"
    for number, (one, other) in enumerate(zip(base.labels, new.labels, strict=False)):
        if one != other:
            yield f"unlike labels: class {number} is '{shown(one)}' in base, '{shown(other)}' in new"
