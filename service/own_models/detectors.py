"""Read a detector's outputs: boxes, their scores and labels, and the decoder that the service needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from models.onnx_tools.detections import with_outputs
from models.onnx_tools.inspect import UnreadableModel
from models.zoo.card import Card, Fact
from service.errors import RefusedModel
from service.inference.runtime_errors import one_line
from service.own_models.facts import Rank
from service.own_models.given import Given
from service.own_models.sources.boxes import Boxes, box_format, box_unit, find_boxes
from service.own_models.sources.labels import BACKGROUND, GivenLabels, LabelSet, named_label_set
from service.own_models.sources.presets import from_tensorflow
from service.own_models.trial import Ran

_DECODER = ("format", "unit", "activation", "no_object")
_DETECTION = ("min_score", "iou", "suppression")


class DetectorEnding:
    """Works out from a detector's outputs which files to write and which card fields to set.

    `labels`: the label set. `prepare` sets `content`, which is the file to serve, and `changes`, which are
    its differences from the file that the user gave.
    """

    task = "object-detection"

    def __init__(
        self,
        given: Given,
        ran: Sequence[Ran],
        boxes: Boxes,
        labels: GivenLabels | None,
        label_set: str | None,
    ) -> None:
        """Add what the outputs suggest to the facts, and find the labels.

        `labels`: the labels of the option `--labels`, or None. `label_set`: the name of the option
        `--label-set`, or None. Raises RefusedModel if the number of labels is unknown or wrong.
        """
        self._given = given
        self._boxes = boxes
        facts = given.facts
        for path, claim in boxes.facts.items():
            facts.state(path, *claim)
        self._first = [output for output in ran if output.dtype.startswith("float")]
        self.labels = self._read_labels(labels, label_set)
        facts.state("labels", self.labels.name, self.labels.rank, self.labels.detail)
        facts.state("input.fitting", "stretch", Rank.ASSUMED, "most common of detectors")
        facts.state("detection.min_score", 0.5, Rank.ASSUMED, "most common")
        facts.state("detection.iou", 0.5, Rank.ASSUMED, "most common")
        suppression = "none" if boxes.suppressed else "by-class"
        rank = Rank.FORCED if boxes.kind == "selected-boxes" else Rank.FILE
        why = "one class for each box, as after suppression" if boxes.suppressed else "every box has scores"
        facts.state("detection.suppression", suppression, rank, why)

    def prepare(self) -> None:
        """Write the file to serve, which has one output for each role, such as `boxes`.

        Compare its outputs with those of the file that the user gave. Raises RefusedModel if they differ.
        """
        given = self._given
        try:
            self.content, self.changes = with_outputs(
                given.content, {self._name(role): part for role, part in self._boxes.parts.items()}
            )
        except UnreadableModel as error:
            raise RefusedModel(f"{given.file.name}: {one_line(str(error))}") from None
        self._ran = given.run(self.content)
        for output in self._first:
            given.check_alike(output, self._ran)
        boxes, facts = self._ran[self._name("boxes")], given.facts
        tensorflow = from_tensorflow(given.graph.producer)
        facts.state("detection.decoder.format", *box_format(boxes.values, tensorflow=tensorflow))
        facts.state("detection.decoder.unit", *box_unit(boxes.values))
        self._state_scores(self._ran[self._name("scores")])
        if self._boxes.kind == "selected-boxes":
            self._check_columns(self._ran[self._name("scores")].shape[1])

    def values(self, provenance: dict[str, Fact]) -> dict[str, Any]:
        """Return the card fields that only detectors have, and add the origin of each to `provenance`."""
        boxes, facts = self._boxes, self._given.facts
        outputs: dict[str, Any] = {}
        names = {role: self._name(role) for role in boxes.parts}
        for role, name in names.items():
            shape = self._ran[name].shape
            free = boxes.boxes_first or role == "selected"
            outputs[role] = shape[1:] if not free or role != "count" else shape
            provenance[f"outputs.{role}"] = Fact(origin="file", detail=f"'{boxes.parts[role].value}'")
        renamed = {role: name for role, name in names.items() if role != name}
        if renamed:
            outputs["names"] = renamed
        claim = facts.get("outputs.class_offset")
        if claim is not None:
            outputs["class_offset"] = claim.value
            provenance["outputs.class_offset"] = claim.fact
        detection: dict[str, Any] = {}
        decoder: dict[str, Any] = {"kind": boxes.kind}
        for prefix, fields, target in (
            ("detection.decoder", _DECODER, decoder),
            ("detection", _DETECTION, detection),
        ):
            for name in fields:
                claim = facts.get(f"{prefix}.{name}")
                if claim is not None:
                    target[name] = claim.value
                    provenance[f"{prefix}.{name}"] = claim.fact
        if boxes.kind == "decoded-boxes":
            decoder |= {"scores_layout": boxes.scores_layout, "boxes_first": boxes.boxes_first}
        provenance["classes"] = Fact(origin="file", detail=f"{len(self.labels.names)} labels")
        return {"outputs": outputs, "detection": {**detection, "decoder": decoder}}

    def judge(self, card: Card, images: Path, mapping: Path | None, layouts: Sequence[str]) -> NoReturn:
        """Raise RefusedModel, because labelled pictures have classes but no boxes."""
        del card, mapping, layouts
        raise RefusedModel(f"--images {images.name}: for classifiers only (leave it out for a detector)")

    def _name(self, role: str) -> str:
        """Return the name that the output for `role` has in the file to serve."""
        part = self._boxes.parts[role]  # type: ignore[index]
        return part.value if part.whole else f"weighin.{role}"

    def _state_scores(self, scores: Ran) -> None:
        """Add a fact: the activation that the scores still need, judged by their values on noise."""
        facts, path = self._given.facts, "detection.decoder.activation"
        if not scores.values:
            facts.state(path, "none", Rank.ASSUMED, "it finds nothing in noise; most common")
        elif scores.low < -1e-3 or scores.high > 1 + 1e-3:
            words = f"its scores on noise go from {scores.low:.3g} to {scores.high:.3g}"
            softmax = facts.value("detection.decoder.no_object", False)
            facts.state(path, "softmax" if softmax else "sigmoid", Rank.ASSUMED, words)
        else:
            facts.state(path, "none", Rank.FILE, "its scores on noise are within 0 to 1")

    def _is_detr(self) -> bool:
        return self._boxes.parts["boxes"].value.lower() == "pred_boxes"

    def _read_labels(self, given: GivenLabels | None, name: str | None) -> LabelSet:
        """Return the label set. Raises RefusedModel if its number of labels does not fit the scores.

        Add to the facts the class offset, and whether the last score of a box stands for no object.
        """
        facts, model, columns = self._given.facts, self._given.folder.name, self._boxes.columns
        if given is None and self._given.beside.found_labels:
            given = self._given.beside.found_labels[0]
        offset = facts.value("outputs.class_offset")
        if columns is None:
            return self._labels_of_ids(given, name)
        if self._is_detr() and given is not None and len(given.names) == columns - 1:
            words = f"{len(given.names)} names for {columns} scores, as DETR has"
            facts.state("detection.decoder.no_object", True, Rank.FILE, words)
            return named_label_set(given, columns - 1, model, 0, name)
        if given is not None and len(given.names) == columns and offset == 1:
            given = GivenLabels(given.names, given.rank, given.detail)
            offset = 1 if given.names[0].strip().lower() in BACKGROUND else None
        labels = named_label_set(given, columns, model, offset, name)
        if labels.offset or facts.claims.get("outputs.class_offset"):
            facts.claims["outputs.class_offset"] = []
            facts.state("outputs.class_offset", labels.offset, labels.offset_rank, labels.offset_detail)
        return labels

    def _labels_of_ids(self, given: GivenLabels | None, name: str | None) -> LabelSet:
        """Return the label set of a detector that gives a class id for each box, and no score per class.

        Add the class offset to the facts. Raises RefusedModel if there are no labels.
        """
        facts = self._given.facts
        if given is None:
            raise RefusedModel(
                "labels: missing (allowed: --labels FILE; the file gives class ids and does not say how many "
                "classes there are)"
            )
        if given.names[0].strip().lower() in BACKGROUND and len(given.names) > 1:
            facts.state("outputs.class_offset", 1, given.rank, f"{given.detail}: first '{given.names[0]}'")
            given = GivenLabels(given.names[1:], given.rank, given.detail)
        facts.state("outputs.class_offset", 0, Rank.ASSUMED, "class ids begin at 0, most common")
        return named_label_set(given, len(given.names), self._given.folder.name, 0, name)

    def _check_columns(self, columns: int) -> None:
        """Raise RefusedModel if the number of scores per box, `columns`, does not fit the labels."""
        classes = len(self.labels.names) + (self._given.facts.value("outputs.class_offset") or 0)
        if columns != classes:
            raise RefusedModel(
                f"labels: {len(self.labels.names)} names for {columns} scores of each box "
                f"(allowed: {columns}, or {columns - 1} with --class-offset 1)"
            )


def ending_of(
    given: Given, ran: Sequence[Ran], labels: GivenLabels | None, label_set: str | None
) -> DetectorEnding | None:
    """Return a DetectorEnding for a file whose outputs are those of a detector, and None for other files.

    Raises RefusedModel.
    """
    named = labels or (given.beside.found_labels[0] if given.beside.found_labels else None)
    counts = [] if named is None else [len(named.names), len(named.names) + 1]
    boxes = find_boxes(given.content, ran, counts, from_pytorch=not from_tensorflow(given.graph.producer))
    return None if boxes is None else DetectorEnding(given, ran, boxes, labels, label_set)
