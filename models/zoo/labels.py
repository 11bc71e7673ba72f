"""Class labels of a model, in the order of its logits."""

from __future__ import annotations

import os
from pathlib import Path

from models.zoo.card import Card
from models.zoo.files import not_text, read_text

BUILT_IN = Path(__file__).parent / "labels"
"""Folder of built-in label sets, one `<label set>.txt` each, e.g. `imagenet-1k.txt`."""


def read_labels(card: Card, folder: Path) -> tuple[str, ...]:
    """Read the labels of a model, one for each of its `card.classes` logits.

    `labels.txt` in the model's `folder` (text, one class a line, in the order of the logits) takes precedence
    over the built-in list of the card's label set.
    Raises OSError if the file cannot be read. Raises ValueError if the model has no such file and its label
    set is not built in, if a line is blank, or if the number of lines is not `card.classes`.
    """
    own = folder / "labels.txt"
    path = own if os.path.lexists(own) else BUILT_IN / f"{card.labels}.txt"
    try:
        text = read_text(path)
    except FileNotFoundError:
        if path == own:
            raise
        built_in = ", ".join(sorted(file.stem for file in BUILT_IN.glob("*.txt")))
        raise ValueError(
            f"label set {card.labels!r} is not built in ({built_in}) and the model's folder has no labels.txt"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text: {not_text(error)}") from None
    # Not splitlines(), which would split a name that has U+2028 or a form feed in it.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip(" \t\n").split("\n")
    labels = tuple(line.strip() for line in lines)
    if len(labels) != card.classes:
        raise ValueError(f"{path.name} names {len(labels)} classes, the card says {card.classes}")
    if "" in labels:
        raise ValueError(f"{path.name} has a blank line where the name of class {labels.index('')} belongs")
    return labels
