"""Read the pictures for making and judging an int8 model, and compare the model with its parent.

The parent is the float model from which the int8 model is made. Their predictions are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.zoo.agreement import as_logits
from models.zoo.card import Activation, InputSpec, Interval
from models.zoo.files import read_regular
from models.zoo.paired import Paired, compare
from models.zoo.preprocess import graph_input
from service.errors import RefusedModel, WeighinError, error_words
from service.inference.pipeline import load_image, to_tensor
from service.inference.session import OnnxSession
from service.own_models.facts import words
from service.own_models.sources.pictures import Labelled

MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Picture:
    """A picture that can be read.

    `class_id`: the class that its label names, or -1 if it has no label. `file`: the SHA-256 of the file's
    content. `pixels`: the SHA-256 of the decoded pixels.
    """

    path: Path
    class_id: int
    file: str
    pixels: str


@dataclass(frozen=True)
class Folder:
    """The pictures of a folder. `unreadable` says, by file name, why the other pictures cannot be read."""

    pictures: tuple[Picture, ...]
    unreadable: Mapping[str, str]


@dataclass(frozen=True)
class Judgement:
    """Comparison of an int8 model with its parent, on pictures that were not used for calibration.

    `same`: number of the `n` pictures for which both models predict the same class. `right`: how many
    pictures the parent classifies correctly, and how many the int8 model does. `paired`: comparison of these
    two numbers. `right` and `paired` are None if the pictures have no labels.
    """

    n: int
    same: int
    right: tuple[int, int] | None
    paired: Paired | None

    @property
    def interval(self) -> Interval:
        """Wilson's interval of the share of pictures for which both models predict the same class."""
        return Interval.wilson(self.same, self.n)

    @property
    def agreement(self) -> str:
        """The share of pictures for which both models predict the same class, in words."""
        low, high = self.interval.low, self.interval.high
        return (
            f"the same top-1 class on {self.same / self.n:.1%} of {self.n} pictures "
            f"(95 % interval {low:.1%} to {high:.1%})"
        )

    @property
    def accuracy(self) -> str | None:
        """The accuracies of both models in words, or None if the pictures have no labels."""
        if self.right is None or self.paired is None:
            return None
        shares = []
        for name, right in zip(("float", "int8"), self.right, strict=True):
            interval = Interval.wilson(right, self.n)
            bounds = f"{interval.low:.1%} to {interval.high:.1%}"
            shares.append(f"{name} names {right / self.n:.1%} of {self.n} right ({bounds})")
        pair = self.paired
        return (
            f"{' and '.join(shares)}: {self.loss}; {pair.only_first} only float, {pair.only_second} only "
            f"int8, McNemar's p {pair.p:.2g}"
        )

    @property
    def loss(self) -> str | None:
        """The int8 model's loss of accuracy in points, with its interval, or None without labels."""
        if self.paired is None:
            return None
        pair = self.paired
        return (
            f"int8 loses {100 * pair.difference:.2f} points (95 % interval {100 * pair.low:.2f} to "
            f"{100 * pair.high:.2f})"
        )


def read_folder(folder: Path, spec: InputSpec, *, option: str, most: int | None = None) -> Folder:
    """Read the pictures in `folder` and its subfolders.

    `most`: maximum number of files to read. If there are more files, those that are read are spread evenly
    over the sorted paths. `option`: the command line option to name in messages. Raises RefusedModel for a
    folder that cannot be listed or is empty.
    """
    try:
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
        if not folder.is_dir():
            raise NotADirectoryError(20, "Not a directory")
    except OSError as error:
        raise RefusedModel(f"{option} {folder.name}: cannot be read, {error_words(error)}") from None
    if not files:
        raise RefusedModel(f"{option} {folder.name}: no pictures (allowed: a folder of pictures)")
    if most is not None and len(files) > most:
        files = [files[at * len(files) // most] for at in range(most)]
    return read_pictures([Labelled(path, -1) for path in files], spec)


def read_pictures(labelled: Sequence[Labelled], spec: InputSpec) -> Folder:
    """Read each picture. If several pictures have equal pixels, keep only the first of them."""
    pictures: dict[str, Picture] = {}
    unreadable: dict[str, str] = {}
    for each in labelled:
        try:
            content = read_regular(each.path)
            image = load_image(content, spec, max_pixels=MAX_PIXELS)
        except (OSError, WeighinError) as error:
            unreadable[each.path.name] = error_words(error) if isinstance(error, OSError) else str(error)
            continue
        pixels = hashlib.sha256(repr(image.pixels.shape).encode() + image.pixels.tobytes()).hexdigest()
        file = hashlib.sha256(content).hexdigest()
        pictures.setdefault(pixels, Picture(each.path, each.class_id, file, pixels))
    return Folder(tuple(pictures.values()), unreadable)


def refuse_shared(calibration: Sequence[Picture], judging: Sequence[Picture]) -> None:
    """Raise RefusedModel if a picture for calibration is also a picture for judging.

    Two pictures are the same if their files or their pixels are equal.
    """
    known = {key: picture for picture in calibration for key in (picture.file, picture.pixels)}
    shared = [
        (picture, known[key]) for picture in judging for key in (picture.file, picture.pixels) if key in known
    ]
    pairs = list(dict.fromkeys((words(one.path.name), words(other.path.name)) for one, other in shared))
    if pairs:
        named = ", ".join(one if one == other else f"{one} (is {other})" for one, other in pairs[:3])
        more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        raise RefusedModel(
            f"--judge: {len(pairs)} pictures are in --calibrate too: {named}{more} (allowed: other pictures; "
            "on those that set its ranges, an int8 model looks better than it is)"
        )


def tensors(pictures: Sequence[Picture], spec: InputSpec) -> Iterator[NDArray[np.float32]]:
    """Yield each picture preprocessed, float32 (1, channels, height, width)."""
    for picture in pictures:
        yield to_tensor(load_image(read_regular(picture.path), spec, max_pixels=MAX_PIXELS), spec)


def feeds(pictures: Sequence[Picture], spec: InputSpec) -> list[NDArray[Any]]:
    """Return the pictures as inputs of the graph, one by one or in batches of the graph's fixed size.

    The last batch is filled up with the first pictures.
    """
    size = spec.batch or 1
    images = list(tensors(pictures, spec))
    while len(images) % size:
        images.append(images[len(images) % len(pictures)])
    return [
        graph_input(np.concatenate(images[start : start + size]), spec)
        for start in range(0, len(images), size)
    ]


def predictions(
    session: OnnxSession, pictures: Sequence[Picture], spec: InputSpec, activation: Activation
) -> NDArray[np.int64]:
    """Return the most probable class of each picture, int64 (n,).

    If the network has a single probability, the class is 1 or 0.
    """
    classes = [
        as_logits(session.run(tensor)["logits"], activation).argmax() for tensor in tensors(pictures, spec)
    ]
    return np.array(classes, np.int64)


def compare_predictions(
    parent: NDArray[np.int64], int8: NDArray[np.int64], pictures: Sequence[Picture]
) -> Judgement:
    """Compare the predictions of the parent and the int8 model for the same pictures."""
    classes = np.array([picture.class_id for picture in pictures])
    same = int((parent == int8).sum())
    if not len(classes) or classes.min() < 0:
        return Judgement(len(classes), same, None, None)
    right = (parent == classes, int8 == classes)
    return Judgement(len(classes), same, (int(right[0].sum()), int(right[1].sum())), compare(*right))
