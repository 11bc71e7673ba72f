"""Names of a model's classes, in the order of its logits."""

from __future__ import annotations

import os
from pathlib import Path

from models.zoo.card import Card
from models.zoo.files import not_text, read_text

BUILT_IN = Path(__file__).parent / "labels"
"""One `<label set>.txt` for each label set that comes with the project, e.g. `imagenet-1k.txt`."""


def read_labels(card: Card, folder: Path) -> tuple[str, ...]:
    """Names of `card.classes` classes, one for each logit.

    `folder` is the model's: its own `labels.txt` (text, one class a line, in the order of the logits) comes
    before the built-in list of the card's label set.
    Raises OSError when the file cannot be read, and ValueError when there is neither, when a line is blank,
    or when they are not `card.classes` lines.
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
    # Not splitlines(): a name may hold U+2028 or a form feed without becoming two classes.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip(" \t\n").split("\n")
    labels = tuple(line.strip() for line in lines)
    if len(labels) != card.classes:
        raise ValueError(f"{path.name} names {len(labels)} classes, the card says {card.classes}")
    if "" in labels:
        raise ValueError(f"{path.name} has a blank line where the name of class {labels.index('')} belongs")
    return labels
