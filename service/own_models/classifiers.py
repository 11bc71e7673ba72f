"""Read a classifier's outputs: class scores and their labels, an embedding, and the last linear layer."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.onnx_tools.inspect import UnreadableModel
from models.onnx_tools.prepare import Head, prepare
from models.zoo.card import Card, Classifier, Fact
from models.zoo.files import write_whole
from service.errors import ModelUnavailable, RefusedModel
from service.inference.runtime_errors import one_line
from service.inference.runtimes.base import SessionError
from service.own_models.facts import Claim, Rank, options_that_state, words
from service.own_models.given import Given, file_of
from service.own_models.sources.evidence import Contradiction, judge
from service.own_models.sources.labels import GivenLabels, named_label_set
from service.own_models.sources.pictures import labelled_pictures
from service.own_models.sources.reading import choose_output, read_activation
from service.own_models.trial import Ran

_JUDGED = {
    "input.mean": ("mean", "std"),
    "input.colour_order": ("colour_order",),
    "input.layout": ("layout",),
    "input.fitting": ("fitting", "resize"),
    "input.resize": (),
    "input.interpolation": ("interpolation",),
    "outputs.class_offset": (),
}
"""The facts that labelled pictures can decide, each with the fields of the card's input that it sets."""


class ClassifierEnding:
    """Works out from a classifier's outputs which files to write and which card fields to set.

    `labels`: the label set. `prepare` sets `content`, which is the file to serve, and `changes`, which are
    its differences from the file that the user gave.
    """

    task = "image-classification"

    def __init__(
        self,
        given: Given,
        ran: Sequence[Ran],
        wanted: str | None,
        labels: GivenLabels | None,
        label_set: str | None,
    ) -> None:
        """Find the output with the class scores, and its labels. Raises RefusedModel.

        `wanted`: the output that the option `--output` names, or None. `labels`: the labels of the option
        `--labels`, or None. `label_set`: the name of the option `--label-set`, or None.
        """
        self._given = given
        self._first = {output.name: output for output in ran}
        self._output, self._why = choose_output(ran, wanted)
        if not self._output.finite:
            raise RefusedModel(f"output '{self._output.name}': not finite on noise (allowed: finite numbers)")
        read_activation(given.content, self._output, given.facts)
        self._scores = math.prod(self._output.shape[1:])
        facts = given.facts
        offset = facts.value("outputs.class_offset")
        if labels is None:
            labels = given.beside.fitting_labels(self._scores, given.folder.name, offset)
        self.labels = named_label_set(labels, self._scores, given.folder.name, offset, label_set)
        if self.labels.warning is not None:
            facts.warnings.append(self.labels.warning)
        facts.state("labels", self.labels.name, self.labels.rank, self.labels.detail)
        if self.labels.offset or offset is not None:
            facts.state(
                "outputs.class_offset", self.labels.offset, self.labels.offset_rank, self.labels.offset_detail
            )
        activation = facts.value("outputs.activation")
        if self._scores == 1 and activation != "sigmoid":
            raise RefusedModel(
                f"output '{self._output.name}': one score without a sigmoid (allowed: two classes or more, "
                "or one probability); put a sigmoid at the end of the network"
            )
        if self._scores > 1 and activation == "sigmoid":
            facts.state("outputs.multi_label", True, Rank.FILE, "the file has a sigmoid for each class")

    def prepare(self) -> None:
        """Write the file to serve, and the last linear layer to a file of its own if the layer is known.

        If the file to serve differs from the file that the user gave, compare their scores. Raises
        RefusedModel.
        """
        given = self._given
        try:
            self._prepared = prepared = prepare(given.content, self._output.name)
        except UnreadableModel as error:
            raise RefusedModel(f"{given.file.name}: {one_line(str(error))}") from None
        self.content, self.changes = prepared.content, prepared.changes
        self._ran: Mapping[str, Ran] = self._first
        if prepared.content != given.content:
            self._ran = given.run(prepared.content)
            given.check_alike(self._output, self._ran)
        self._classifier: Classifier | None = None
        if prepared.embedding is None:
            reason = prepared.reason or "the file shows no last linear layer"
            given.notes.append(f"no embedding, so neither retrieval nor class activation maps: {reason}")
        elif prepared.head is None or prepared.features is None:
            reason = prepared.no_maps or "the last linear layer is not known"
            given.notes.append(f"no class activation maps: {reason}")
        else:
            self._write_classifier(self.labels.offset)

    def values(self, provenance: dict[str, Fact]) -> dict[str, Any]:
        """Return the card fields that only classifiers have, and add the origin of each to `provenance`."""
        prepared, names = self._prepared, {"logits": self._output.name}
        provenance["outputs.logits"] = self._why
        provenance["classes"] = Fact(origin="file", detail=f"its output has {self._scores} scores")
        for name, info in (("embedding", prepared.embedding), ("features", prepared.features)):
            if info is not None and info.name in self._ran:
                names[name] = info.name
                provenance[f"outputs.{name}"] = Fact(origin="file", detail=f"'{info.name}'")
        outputs: dict[str, Any] = {name: self._ran[graph].shape[1:] for name, graph in names.items()}
        renamed = {name: graph for name, graph in names.items() if name != graph}
        if renamed:
            outputs["names"] = renamed
        for name in ("activation", "class_offset", "multi_label"):
            claim = self._given.facts.get(f"outputs.{name}")
            if claim is not None:
                outputs[name] = claim.value
                provenance[f"outputs.{name}"] = claim.fact
        return {"outputs": outputs, "classifier": self._classifier}

    def judge(self, card: Card, images: Path, mapping: Path | None, layouts: Sequence[str]) -> None:
        """Let the labelled pictures in `images` decide the facts that no source states.

        `layouts`: layouts in which the file runs. The file is run in this process. A child process has
        already run it without failing. Raises RefusedModel.
        """
        facts, notes = self._given.facts, self._given.notes
        pictures = labelled_pictures(images, self.labels.names, self.labels.name, mapping)
        fixed = {path for path in _JUDGED if facts.settled(path)}
        try:
            evidence = judge(self.content, card, pictures, fixed=fixed, layouts=layouts)
        except (ValueError, SessionError, ModelUnavailable) as error:
            raise RefusedModel(f"--images: {error}") from None
        for path, names in _JUDGED.items():
            undecided = evidence.undecided.get(path, ())
            if path in fixed or not (undecided or path in evidence.decided):
                continue
            values = {f"input.{name}": getattr(evidence.input, name) for name in names}
            if path == "outputs.class_offset":
                values = {path: evidence.class_offset}
            for fact, value in values.items():
                claim = Claim(value, Rank.PICTURES, evidence.detail(path), undecided)
                facts.claims.setdefault(fact, []).append(claim)
        if evidence.class_offset != card.class_offset:
            self._write_classifier(evidence.class_offset)
        notes.append(
            f"with this preprocessing {evidence.correct} of {evidence.pictures} pictures are named right"
        )
        if evidence.unreadable:
            notes.append(f"{len(evidence.unreadable)} pictures cannot be read: {_named(evidence.unreadable)}")
        if evidence.copies:
            notes.append(
                f"{len(evidence.copies)} pictures have the pixels of others and do not count: "
                f"{_named(evidence.copies)}"
            )
        notes += [self._contradicted(against) for against in evidence.contradictions]
        if evidence.fitting is not None:
            notes.append(
                "on these pictures another fitting or filter does better, which may be due to how they are "
                f"framed or how sharp they are: {evidence.fitting}"
            )

    def _contradicted(self, against: Contradiction) -> str:
        """Return a warning that names the facts that the pictures contradict.

        It also names the command line options for the values that the pictures support.
        """
        stated = [
            f"{path} ({claim.detail})"
            for path in against.facts
            if (claim := self._given.facts.get(path)) is not None
        ]
        options = options_that_state(against.facts, against.better.input, against.better.offset)
        return (
            f"PICTURES CONTRADICT {' and '.join(stated)}, which is kept: {against.words}; to take what they "
            f"support: {options}"
        )

    def _write_classifier(self, offset: int) -> None:
        """Write the last linear layer to `classifier.npz`, if the layer is known.

        Only the rows that belong to labels are written. `offset`: position of the first label among the
        scores.
        """
        if self._prepared.head is not None and self._prepared.features is not None:
            content = _arrays(self._prepared.head, slice(offset, offset + len(self.labels.names)))
            folder = self._given.folder
            write_whole(folder / "classifier.npz", content)
            self._classifier = Classifier(model=folder.name, file=file_of("classifier.npz", content))


def _named(paths: Iterable[Path]) -> str:
    """Return text that names the first three of `paths`, each with the folder that it is in."""
    return ", ".join(words("/".join(path.parts[-2:])) for path in itertools.islice(paths, 3))


def _arrays(head: Head, classes: slice) -> bytes:
    """Return the last linear layer as an NPZ file that has only the rows in `classes`."""
    buffer = io.BytesIO()
    np.savez(buffer, weight=head.weight[classes], bias=head.bias[classes])
    return buffer.getvalue()
