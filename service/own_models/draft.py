"""One file on its way to a model: its facts are read, settled and put into a card, its files written."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from models.onnx_tools.describe import GraphFacts
from models.onnx_tools.inspect import UnreadableModel
from models.onnx_tools.prepare import Head, Prepared, data_files, prepare
from models.zoo.card import Card, Classifier, DataFile, Fact, File, GivenFile, InputSpec
from models.zoo.files import write_whole
from service.errors import ModelUnavailable, RefusedModel, error_words
from service.inference.runtime_errors import one_line
from service.inference.session import SessionError
from service.own_models.facts import (
    UNKNOWN,
    Claim,
    Facts,
    Rank,
    option_for,
    options_that_state,
    warning_of_assumed,
    words,
)
from service.own_models.sources.evidence import Contradiction, judge
from service.own_models.sources.labels import (
    BuiltIn,
    GivenLabels,
    LabelSet,
    built_in_sets,
    label_set,
    labels_option,
)
from service.own_models.sources.pictures import labelled_pictures
from service.own_models.sources.presets import (
    assume_input,
    assume_size,
    fit_channels,
    from_tensorflow,
    scale_resize,
)
from service.own_models.sources.presets import preset as preset_named
from service.own_models.sources.reading import (
    choose_output,
    read_activation,
    read_graph,
    read_input,
    read_sides,
    same_in_both_layouts,
)
from service.own_models.sources.sidecars import OWN_METADATA, read_beside
from service.own_models.trial import Bounds, Feed, Ran, TrialFailed, run_once

_Model = TypeVar("_Model", bound=BaseModel)
_DIFFERENT = {"fp32": 1e-3, "fp16": 3e-2, "int8": 3e-2}
"""How far the scores of the file served may be from those of the file given, in their deviations: the runtime
may fuse other operators once another output is asked for, and rounds differently then."""
_JUDGED = {
    "input.mean": ("mean", "std"),
    "input.colour_order": ("colour_order",),
    "input.layout": ("layout",),
    "input.fitting": ("fitting", "resize"),
    "input.resize": (),
    "input.interpolation": ("interpolation",),
    "outputs.class_offset": (),
}
"""What labelled pictures decide, and the fields of the input that belong to it."""
_INPUT = (
    "name",
    "layout",
    "dtype",
    "batch",
    "height",
    "width",
    "channels",
    "fitting",
    "interpolation",
    "mean",
    "std",
)
_OF_FITTING = {"center-crop": ("resize",), "stretch": (), "letterbox": ("pad_value",), "pad": ("pad_value",)}
_OTHERS = (
    "labels", "outputs.activation", "outputs.class_offset", "outputs.multi_label", "architecture", "block",
    "parameters", "macs", "source.weights", "source.licence",
)  # fmt: skip


class Draft:
    """The facts of one file, and the folder aside that its model is written to.

    Everything that the file, what lies beside it and the flags say is read at construction, and the file is
    run; `card` then describes it.
    """

    def __init__(
        self,
        file: Path,
        content: bytes,
        folder: Path,
        bounds: Bounds,
        *,
        flags: Mapping[str, Any],
        preset: str | None = None,
        labels: str | Path | BuiltIn | None = None,
        label_set: str | None = None,
    ) -> None:
        """`content`: the file with its external tensors. Raises RefusedModel; OSError where `folder` is full.

        `flags`: facts by path, as `Options.facts` of `add`.
        """
        self._file = file
        self._content = content
        self._folder = folder
        self._bounds = bounds
        self._facts = Facts()
        self._graph = read_graph(content, file.name)
        given = dict(flags)
        wanted = given.pop("output", None)
        self._state_flags(given)
        read_input(self._graph, self._facts)
        self._beside = read_beside(file, self._graph.metadata, scores=_scores(self._graph))
        for path, (value, where) in self._beside.values.items():
            self._facts.state(path, value, Rank.METADATA, where)
        first = self._first_run()
        self._output, self._why_output = choose_output(first, wanted)
        if not self._output.finite:
            raise RefusedModel(f"output '{self._output.name}': not finite on noise (allowed: finite numbers)")
        read_activation(content, self._output, self._facts)
        self._labels = self._read_labels(
            self._fitting_labels() if labels is None else labels_option(labels), label_set
        )
        self._settle_input(preset)
        self._prepared, self._ran = self._prepare(first)
        self._data = _data_files(file)
        self.changes: tuple[str, ...] = (*_read_in(self._data), *self._prepared.changes)
        """In which ways the file served differs from the one given."""
        self._write_files()

    def card(self) -> Card:
        """Return the card of the facts as they are settled by now. Raises RefusedModel."""
        provenance: dict[str, Fact] = {}
        spec = self._input(provenance)
        outputs = self._outputs(provenance)
        sides = (spec.height, spec.width)
        image = (*sides, spec.channels) if spec.layout == "nhwc" else (spec.channels, *sides)
        graph = read_graph(self._prepared.content, self._file.name, image)
        self._describe(graph)
        for path in _OTHERS:
            claim = self._facts.get(path)
            if claim is not None:
                provenance[path] = claim.fact
        logits = math.prod(self._output.shape[1:])
        provenance["classes"] = Fact(origin="file", detail=f"its output has {logits} scores")
        provenance["precision"] = Fact(origin="file")
        values = {
            "schema_version": 2,
            "name": self._folder.name,
            "labels": self._labels.name,
            "classes": len(self._labels.names),
            **{path: self._facts.value(path) for path in ("architecture", "block", "parameters", "macs")},
            "precision": graph.precision,
            "input": spec,
            "outputs": outputs,
            "file": {
                **_file("model.onnx", self._prepared.content).model_dump(),
                "opset": graph.opset,
                "initializer_elements": graph.initializer_elements,
            },
            "classifier": self._classifier,
            "source": {name: str(self._facts.value(f"source.{name}")) for name in ("weights", "licence")},
            "given": self._given,
            "provenance": {path: provenance[path] for path in sorted(provenance)},
            "notes": self._notes,
        }
        return _validated(Card, values, "card")

    def judged(self, card: Card, images: Path, mapping: Path | None) -> Card:
        """Return the card with what labelled pictures in `images` say of facts that nothing states.

        Runs the file in this process: it has run in a child before. Raises RefusedModel.
        """
        pictures = labelled_pictures(images, self._labels.names, mapping)
        fixed = {path for path in _JUDGED if self._facts.settled(path)}
        try:
            evidence = judge(
                self._prepared.content, card, pictures, fixed=fixed, layouts=self._possible_layouts()
            )
        except (ValueError, SessionError, ModelUnavailable) as error:
            raise RefusedModel(f"--images: {error}") from None
        for path, names in _JUDGED.items():
            undecided = evidence.undecided.get(path, ())
            detail = evidence.decided.get(path, f"{evidence.pictures} pictures do not tell them apart")
            if path in fixed or not (undecided or path in evidence.decided):
                continue
            values = {f"input.{name}": getattr(evidence.input, name) for name in names}
            if path == "outputs.class_offset":
                values = {path: evidence.class_offset}
            for fact, value in values.items():
                claim = Claim(value, Rank.PICTURES, detail, undecided)
                self._facts.claims.setdefault(fact, []).append(claim)
        if evidence.class_offset != card.class_offset:
            self._write_classifier(evidence.class_offset)
        self._notes.append(
            f"with this preprocessing {evidence.correct} of {evidence.pictures} pictures are named right"
        )
        if evidence.unreadable:
            named = ", ".join(list(evidence.unreadable)[:3])
            self._notes.append(f"{len(evidence.unreadable)} pictures cannot be read: {named}")
        self._notes += [self._contradicted(against) for against in evidence.contradictions]
        if evidence.fitting is not None:
            self._notes.append(
                f"on these pictures another fitting does better, which may be due to how they are framed: "
                f"{evidence.fitting}"
            )
        return self.card()

    def _contradicted(self, against: Contradiction) -> str:
        """Say which stated facts the pictures speak against, and with which options theirs are taken."""
        stated = [
            f"{path} ({claim.detail})"
            for path in against.facts
            if (claim := self._facts.get(path)) is not None
        ]
        options = options_that_state(against.facts, against.better.input, against.better.offset)
        return (
            f"PICTURES CONTRADICT {' and '.join(stated)}, which is kept: {against.words}; to take what they "
            f"support: {options}"
        )

    def warnings(self, card: Card) -> tuple[str, ...]:
        """Return what is not certain of a card made here, a line each."""
        assumed = warning_of_assumed(card.assumed, flat(card))
        doubts = [f"{path}: {doubt}" for path, doubt in self._beside.doubts.items() if path in card.assumed]
        return (*self._facts.warnings, *self._beside.warnings, *doubts, *self._notes, *assumed)

    def _state_flags(self, given: Mapping[str, Any]) -> None:
        for path, value in given.items():
            if path == "input.size":
                for name, side in zip(("input.height", "input.width"), value, strict=True):
                    self._facts.state(name, side, Rank.FLAG, "--size")
            else:
                self._facts.state(path, value, Rank.FLAG, option_for(path).split(",")[0])

    def _first_run(self) -> tuple[Ran, ...]:
        """Run the file as it was given; settle layout, size and batch on the way."""
        path = self._folder / "model.onnx"
        write_whole(path, self._content)
        facts = self._facts
        known = facts.value("input.layout")
        layouts = [known] if known else ["nchw", "nhwc"]
        if from_tensorflow(self._graph.producer):
            layouts.reverse()
        runs: dict[tuple[str, int | None], tuple[tuple[Ran, ...], bool]] = {}
        failed: TrialFailed | None = None
        refused: RefusedModel | None = None
        for layout in layouts:
            try:
                for channels in self._free_channels(layout):
                    try:
                        runs[layout, channels] = self._run_in(layout, channels, path)
                    except TrialFailed as error:
                        failed = failed or error
            except RefusedModel as error:  # its sides do not allow this layout
                refused = refused or error
        if failed is not None and not runs:
            raise TrialFailed(f"{self._file.name}: {failed}")
        if refused is not None and not runs:
            raise refused
        self._layouts = tuple(dict.fromkeys(layout for layout, _ in runs))
        (layout, channels), (ran, several) = next(iter(runs.items()))
        if channels is not None and sum(other == layout for other, _ in runs) == 1:
            only = "the file, which runs with no other number of them"
            facts.state("input.channels", channels, Rank.FORCED, only)
        if not known and {other for other, _ in runs} == {layout}:
            facts.state("input.layout", layout, Rank.FORCED, "the file, which runs in no other layout")
        elif not known:
            facts.state("input.layout", layout, Rank.ASSUMED, "the file runs in both layouts")
        read_sides(self._graph, layout, facts)
        assume_size(facts)
        if not several:
            facts.state("input.batch", 1, Rank.FORCED, "the file, which does not run on two images at once")
        return ran

    def _possible_layouts(self) -> tuple[str, ...]:
        """Return the layouts in which the file runs, with the same height, width and channels in each."""
        if not same_in_both_layouts(self._graph):
            return self._layouts[:1]
        (claim, *_) = sorted(self._facts.claims["input.layout"], key=lambda claim: claim.rank)
        if len(self._layouts) == 1 and claim.rank is not Rank.FORCED:  # stated, so no other was tried
            other = "nhwc" if self._layouts == ("nchw",) else "nchw"
            with contextlib.suppress(RefusedModel):
                self._run_in(other, None, self._folder / "model.onnx")
                self._layouts += (other,)
        return self._layouts

    def _free_channels(self, layout: str) -> tuple[int | None, ...]:
        """Return the numbers of channels to try in one layout: None, which is no other, where it is known."""
        facts = self._facts.copy()
        read_sides(self._graph, layout, facts)
        return (None,) if facts.known("input.channels") else (3, 1)

    def _run_in(self, layout: str, channels: int | None, path: Path) -> tuple[tuple[Ran, ...], bool]:
        """Run the file in one layout; also return whether it runs on two images at once, or need not.

        `channels`: how many to try; None where it is known.
        """
        facts = self._facts.copy()
        if channels is not None:
            facts.state("input.channels", channels, Rank.FORCED, "the number tried")
        read_sides(self._graph, layout, facts)
        assume_size(facts)
        facts.claims["input.layout"] = [Claim(layout, Rank.FORCED, "the layout tried")]
        batch = facts.value("input.batch")
        if batch:
            return run_once(path, [_feed(facts, batch)], self._bounds)[0], True
        try:
            one, two = run_once(path, [_feed(facts, 1), _feed(facts, 2)], self._bounds)
        except TrialFailed:
            return run_once(path, [_feed(facts, 1)], self._bounds)[0], False
        alike = all(b.shape[:1] == (2,) for a, b in zip(one, two, strict=True) if a.shape[:1] == (1,))
        return one, alike

    def _fitting_labels(self) -> GivenLabels | None:
        """Return the first labels from files beside the given one whose number fits the scores."""
        count = math.prod(self._output.shape[1:])
        for given in self._beside.found_labels:
            try:
                label_set(given, count, self._folder.name, self._facts.value("outputs.class_offset"))
            except RefusedModel as error:
                if given.detail.startswith(OWN_METADATA):
                    raise
                reason = error.detail.replace("; --labels FILE gives others", "")
                self._beside.warnings.append(f"{reason}; not used")
            else:
                return given
        return None

    def _read_labels(self, given: GivenLabels | None, name: str | None) -> LabelSet:
        facts = self._facts
        count = math.prod(self._output.shape[1:])
        offset = facts.value("outputs.class_offset")
        own = name is not None and name not in built_in_sets()
        labels = label_set(given, count, self._folder.name, offset, keep=own)
        if labels.warning is not None:
            facts.warnings.append(labels.warning)
        if name is not None:
            known = built_in_sets().get(name)
            if known is not None and known != labels.names:
                raise RefusedModel(f"--label-set {name}: the labels are not those of the built-in set")
            labels = dataclasses.replace(labels, name=name, built_in=known is not None)
        facts.state("labels", labels.name, labels.rank, labels.detail)
        if labels.offset or offset is not None:
            facts.state("outputs.class_offset", labels.offset, labels.offset_rank, labels.offset_detail)
        activation = facts.value("outputs.activation")
        if count == 1 and activation != "sigmoid":
            raise RefusedModel(
                f"output '{self._output.name}': one score without a sigmoid (allowed: two classes or more, "
                "or one probability); put a sigmoid at the end of the network"
            )
        if count > 1 and activation == "sigmoid":
            facts.state("outputs.multi_label", True, Rank.FILE, "the file has a sigmoid for each class")
        return labels

    def _settle_input(self, preset: str | None) -> None:
        """State what the preset says, then what is assumed."""
        facts = self._facts
        height, width, channels = (facts.value(f"input.{side}") for side in ("height", "width", "channels"))
        fit_channels(facts, channels)
        scale_resize(facts, self._beside)
        if facts.known("input.mean") != facts.known("input.std"):
            raise RefusedModel("--mean, --std: one is given without the other (allowed: both, or --range)")
        flagged = any(claim.rank is Rank.FLAG for claim in facts.claims.get("input.resize", ()))
        stated = {} if preset is None else preset_named(preset).values(height, width, channels)
        if facts.value("input.dtype") == "uint8":
            for path, number in (("input.mean", 0.0), ("input.std", 1.0)):
                facts.state(path, (number,) * channels, Rank.FORCED, "the file takes uint8, pixel values")
                stated.pop(path, None)
        if facts.known("input.fitting"):  # its resize belongs to it
            stated.pop("input.resize", None)
        facts.state_all(stated, Rank.PRESET, f"--preset {preset}")
        assume_input(facts, self._graph.producer)
        fitting = facts.value("input.fitting")
        if flagged and fitting != "center-crop":
            raise RefusedModel(f"--resize: the fitting is {fitting} (allowed: center-crop)")

    def _prepare(self, first: Sequence[Ran]) -> tuple[Prepared, Mapping[str, Ran]]:
        """Write the file to serve; where it is another, run it and compare its scores with `first`."""
        try:
            prepared = prepare(self._content, self._output.name)
        except UnreadableModel as error:
            raise RefusedModel(f"{self._file.name}: {one_line(str(error))}") from None
        if prepared.content == self._content:
            return prepared, {output.name: output for output in first}
        path = self._folder / "model.onnx"
        write_whole(path, prepared.content)
        (outputs,) = run_once(path, [_feed(self._facts, self._facts.value("input.batch") or 1)], self._bounds)
        ran = {output.name: output for output in outputs}
        if self._output.name not in ran or not _alike(
            self._output, ran[self._output.name], _DIFFERENT[self._graph.precision]
        ):
            raise RefusedModel(
                f"{self._file.name}: the file prepared to be served gives other scores on the same noise; "
                "this is a fault of weighin: report it with the file"
            )
        return prepared, ran

    def _write_files(self) -> None:
        """Write the labels and the classifier, and note what is missing."""
        prepared, labels = self._prepared, self._labels
        self._notes: list[str] = []
        self._classifier: Classifier | None = None
        if prepared.embedding is None:
            reason = prepared.reason or "the file shows no last linear layer"
            self._notes.append(f"no embedding, so neither retrieval nor class activation maps: {reason}")
        elif prepared.head is None or prepared.features is None:
            reason = prepared.no_maps or "the last linear layer is not known"
            self._notes.append(f"no class activation maps: {reason}")
        else:
            self._write_classifier(labels.offset)
        if not labels.built_in:
            text = "".join(f"{label}\n" for label in labels.names)
            write_whole(self._folder / "labels.txt", text.encode())
        original = _read_again(self._file)
        self._given: GivenFile | None = None
        if original != prepared.content:
            self._given = GivenFile(
                **_file(_plain(self._file.name)[:200], original).model_dump(), data=_described(self._data)
            )

    def _write_classifier(self, offset: int) -> None:
        """Write the last linear layer of the classes, which begin at score `offset`, where there is one."""
        if self._prepared.head is not None and self._prepared.features is not None:
            content = _arrays(self._prepared.head, slice(offset, offset + len(self._labels.names)))
            write_whole(self._folder / "classifier.npz", content)
            self._classifier = Classifier(model=self._folder.name, file=_file("classifier.npz", content))

    def _input(self, provenance: dict[str, Fact]) -> InputSpec:
        """Return the settled preprocessing, and note the origin of each of its facts."""
        fitting = self._facts.value("input.fitting")
        grey = self._facts.value("input.channels") == 1
        values = {}
        for name in (*_INPUT, *_OF_FITTING.get(fitting, ()), "polarity" if grey else "colour_order"):
            claim = self._facts.get(f"input.{name}")
            if claim is not None:
                values[name] = claim.value
                provenance[f"input.{name}"] = claim.fact
        if fitting == "center-crop":
            values["crop_rounding"] = "pixels"  # as torchvision, timm and transformers crop
        for path, doubt in self._beside.doubts.items():
            if path in provenance and provenance[path].origin == "metadata":
                provenance[path] = Fact(origin="assumed", detail=doubt)
        return _validated(InputSpec, values, "input")

    def _outputs(self, provenance: dict[str, Fact]) -> dict[str, Any]:
        """Return the card's `outputs`, and note the origin of each of its facts."""
        prepared, names = self._prepared, {"logits": self._output.name}
        provenance["outputs.logits"] = self._why_output
        for name, info in (("embedding", prepared.embedding), ("features", prepared.features)):
            if info is not None and info.name in self._ran:
                names[name] = info.name
                provenance[f"outputs.{name}"] = Fact(origin="file", detail=f"'{info.name}'")
        outputs: dict[str, Any] = {name: self._ran[graph].shape[1:] for name, graph in names.items()}
        renamed = {name: graph for name, graph in names.items() if name != graph}
        if renamed:
            outputs["names"] = renamed
        for name in ("activation", "class_offset", "multi_label"):
            value = self._facts.value(f"outputs.{name}")
            if value is not None:
                outputs[name] = value
        return outputs

    def _describe(self, graph: GraphFacts) -> None:
        """State what is there for the tables only."""
        facts = self._facts
        for path in ("architecture", "block", "source.weights", "source.licence"):
            facts.state(path, UNKNOWN, Rank.ASSUMED, "nothing says")
        parameters = max(1, graph.parameters)
        facts.state("parameters", parameters, Rank.FILE, "counted in the file")
        if graph.macs:
            facts.state("macs", graph.macs, Rank.FILE, "counted in the file")
        else:
            facts.state("macs", parameters, Rank.ASSUMED, "not countable: one for each parameter at least")


def flat(card: Card) -> dict[str, Any]:
    """Return the facts of a card by path, e.g. `input.mean`."""
    values: dict[str, Any] = {}
    for key, value in card.model_dump(mode="json", exclude_none=True).items():
        if key in ("input", "outputs", "source"):
            values |= {f"{key}.{inner}": item for inner, item in value.items()}
        elif key != "provenance":
            values[key] = value
    return values


def _scores(graph: GraphFacts) -> frozenset[int]:
    """Return how many scores for an image the outputs may have; none where one leaves its shape free."""
    counts = set()
    for output in graph.outputs:
        sides = [side for side in output.shape[1:] if isinstance(side, int)]
        if len(sides) != len(output.shape) - 1 or not sides:
            return frozenset()
        counts.add(math.prod(sides))
    return frozenset(counts)


def _data_files(file: Path) -> Mapping[str, Path]:
    """Return the files that the given one has tensors in. Raises RefusedModel where it has gone meanwhile."""
    try:
        return data_files(file)
    except OSError as error:
        raise RefusedModel(f"{file.name}: cannot be read any more, {error_words(error)}") from None
    except UnreadableModel as error:
        raise RefusedModel(f"{file.name}: {one_line(str(error))}") from None


def _read_in(data: Mapping[str, Path]) -> tuple[str, ...]:
    """Say which files beside the given one its tensors were read from."""
    return (f"tensors of {', '.join(words(name) for name in list(data)[:3])} read in",) if data else ()


def _described(data: Mapping[str, Path]) -> tuple[DataFile, ...]:
    """Return name, size and checksum of each file with tensors. Raises RefusedModel for one that has gone."""
    described = []
    for name, path in data.items():
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except OSError as error:
            raise RefusedModel(f"{words(name)}: cannot be read any more, {error_words(error)}") from None
        plain = "/".join(_plain(part) for part in name.split("/") if part not in ("", "."))
        described.append(DataFile(name=plain, bytes=size, sha256=digest))
    return tuple(described)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _read_again(file: Path) -> bytes:
    """Return the bytes of the given file. Raises RefusedModel where it has gone meanwhile."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise RefusedModel(f"{file.name}: cannot be read any more, {error_words(error)}") from None


def _feed(facts: Facts, batch: int) -> Feed:
    """Return the noise that the file takes by its facts."""
    channels, height, width = (facts.value(f"input.{side}") for side in ("channels", "height", "width"))
    image = (height, width, channels) if facts.value("input.layout") == "nhwc" else (channels, height, width)
    return Feed(facts.value("input.name"), facts.value("input.dtype"), (batch, *image))


def _alike(one: Ran, other: Ran, tolerance: float) -> bool:
    """Return whether two runs on the same noise gave the same scores, within `tolerance` deviations."""
    if one.shape != other.shape:
        return False
    first, second = np.array(one.values), np.array(other.values)
    return bool(np.abs(first - second).max() <= tolerance * float(first.std()) + 1e-6)


def _arrays(head: Head, classes: slice) -> bytes:
    """Return the last linear layer as an NPZ file, without a background class."""
    buffer = io.BytesIO()
    np.savez(buffer, weight=head.weight[classes], bias=head.bias[classes])
    return buffer.getvalue()


def _file(name: str, content: bytes) -> File:
    return File(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _validated(kind: type[_Model], values: Mapping[str, Any], where: str) -> _Model:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *map(str, first["loc"])])
        raise RefusedModel(one_line(f"{place}: {first['msg'].removeprefix('Value error, ')}")) from None
