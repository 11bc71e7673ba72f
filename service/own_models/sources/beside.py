"""Facts of a network from the ONNX file's metadata and from the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.zoo.card import MAX_SIDE
from service.errors import RefusedModel
from service.own_models.facts import numbers, words
from service.own_models.sources.labels import GivenLabels, label_set

OWN_METADATA = "metadata of the file"
"""Beginning of the text that names the ONNX file's own metadata as a source."""


@dataclass
class Beside:
    """Facts of a network from the ONNX file's metadata and from the files beside it.

    `values`: the value of each fact by path in the card, each with the name of its source. `found_labels`:
    the class names of each source that has them, in order of precedence. `doubts`: by path, descriptions of
    facts that a card cannot express exactly. `warnings`: a line for metadata that was not understood.
    """

    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    found_labels: list[GivenLabels] = field(default_factory=list)
    doubts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def labels(self) -> GivenLabels | None:
        """The class names of the source that takes precedence, or None if no source has class names."""
        return self.found_labels[0] if self.found_labels else None

    def fitting_labels(self, scores: int, model: str, offset: int | None) -> GivenLabels | None:
        """Return the class names of the first source whose number of names fits the number of `scores`.

        Return None if there is no such source. Each source that is skipped because its names do not fit adds
        a warning. If the ONNX file's own metadata has names that do not fit, raise RefusedModel instead.
        """
        for given in self.found_labels:
            try:
                label_set(given, scores, model, offset)
            except RefusedModel as error:
                if given.detail.startswith(OWN_METADATA):
                    raise
                reason = error.detail.replace("; --labels FILE gives others", "")
                self.warnings.append(f"{reason}; not used")
            else:
                return given
        return None

    def take(self, values: Mapping[str, Any], where: str) -> None:
        """Add facts from the source `where`. A fact that an earlier source has stated stays unchanged."""
        for path, value in values.items():
            self.values.setdefault(path, (value, where))


def side_of(value: object, where: str) -> int:
    """Return `value` if it is a valid length of a side. Raises RefusedModel, which names `where`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_SIDE:
        raise RefusedModel(f"{where}: {words(value)} is not valid (allowed: 1 to {MAX_SIDE})")
    return value


def positive(value: object, where: str) -> float:
    """Return `value` if it is a number above 0. Raises RefusedModel, which names `where`."""
    (number,) = numbers(value, (1,), where)
    if number <= 0:
        raise RefusedModel(f"{where}: {words(value)} is not valid (allowed: more than 0)")
    return number
