"""Draft of a model: collect the facts of a file, decide which of them count, and make card and files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from models.onnx_tools.describe import GraphFacts
from models.zoo.card import Card, Fact, InputSpec
from models.zoo.files import write_whole
from service.errors import RefusedModel
from service.inference.runtime_errors import one_line
from service.own_models.classifiers import ClassifierEnding
from service.own_models.detectors import DetectorEnding, ending_of
from service.own_models.facts import (
    UNKNOWN,
    Claim,
    Facts,
    Rank,
    option_for,
    warning_of_assumed,
    words,
)
from service.own_models.given import Given, feed, file_of
from service.own_models.sources.labels import (
    BuiltIn,
    GivenLabels,
    labels_option,
)
from service.own_models.sources.presets import (
    assume_input,
    assume_size,
    fit_channels,
    from_tensorflow,
    scale_resize,
)
from service.own_models.sources.presets import preset as preset_named
from service.own_models.sources.reading import (
    read_graph,
    read_input,
    read_sides,
    same_in_both_layouts,
)
from service.own_models.sources.sidecars import read_beside
from service.own_models.trial import Bounds, OutOfTime, Ran, TrialFailed, run_once

_Model = TypeVar("_Model", bound=BaseModel)
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
    "labels", "architecture", "block", "parameters", "macs", "source.weights", "source.licence",
)  # fmt: skip


class Draft:
    """A model in the making: the facts of one ONNX file, and the temporary folder for the model's files.

    The constructor reads the file, the files beside it and the flags, and runs the file. `card` then returns
    the model's card.
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
        """Collect the facts, and write all files of the model but the card to `folder`.

        `content`: the file with its external tensors. `flags`: facts by path, as in `facts` of
        `service.own_models.add.Options`. Raises RefusedModel, and OSError if `folder` cannot be written.
        """
        graph = read_graph(content, file.name)
        facts = self._facts = Facts()
        given = dict(flags)
        wanted = given.pop("output", None)
        self._state_flags(given)
        read_input(graph, facts)
        beside = read_beside(file, graph.metadata, scores=_scores(graph))
        for path, (value, where) in beside.values.items():
            facts.state(path, value, Rank.METADATA, where)
        self._given = Given(file, content, folder, bounds, graph, beside, facts)
        first = self._first_run()
        named = None if labels is None else labels_option(labels)
        self._ending = _ending(self._given, first, wanted, named, label_set)
        self._settle_input(preset)
        self._ending.prepare()
        data = self._given.data_files()
        self.changes: tuple[str, ...] = (*_read_in(data), *self._ending.changes)
        """Differences of the served file from the file that the user gave."""
        if not self._ending.labels.built_in:
            text = "".join(f"{label}\n" for label in self._ending.labels.names)
            write_whole(folder / "labels.txt", text.encode())
        self._described = self._given.described(self._ending.content, data)

    def card(self) -> Card:
        """Return the card that follows from the facts decided so far. Raises RefusedModel."""
        provenance: dict[str, Fact] = {}
        spec = self._input(provenance)
        ending = self._ending
        of_ending = ending.values(provenance)
        sides = (spec.height, spec.width)
        image = (*sides, spec.channels) if spec.layout == "nhwc" else (spec.channels, *sides)
        graph = read_graph(ending.content, self._given.file.name, image)
        self._describe(graph)
        for path in _OTHERS:
            claim = self._facts.get(path)
            if claim is not None:
                provenance[path] = claim.fact
        provenance["precision"] = Fact(origin="file")
        values = {
            "schema_version": 2,
            "name": self._given.folder.name,
            "task": ending.task,
            "labels": ending.labels.name,
            "classes": len(ending.labels.names),
            **{path: self._facts.value(path) for path in ("architecture", "block", "parameters", "macs")},
            "precision": graph.precision,
            "input": spec,
            **of_ending,
            "file": {
                **file_of("model.onnx", ending.content).model_dump(),
                "opset": graph.opset,
                "initializer_elements": graph.initializer_elements,
            },
            "source": {name: str(self._facts.value(f"source.{name}")) for name in ("weights", "licence")},
            "given": self._described,
            "provenance": {path: provenance[path] for path in sorted(provenance)},
            "notes": self._given.notes,
        }
        return _validated(Card, values, "card")

    def judged(self, card: Card, images: Path, mapping: Path | None) -> Card:
        """Let the labelled pictures in `images` decide the facts that no source states. Return the card.

        The ONNX file is run in this process, because a child process has already run it without failing.
        Raises RefusedModel.
        """
        self._ending.judge(card, images, mapping, self._possible_layouts())
        return self.card()

    def warnings(self, card: Card) -> tuple[str, ...]:
        """Return one line for each uncertain fact of a card that this draft made."""
        assumed = warning_of_assumed(card.assumed, flat(card))
        beside = self._given.beside
        doubts = [f"{path}: {doubt}" for path, doubt in beside.doubts.items() if path in card.assumed]
        return (*self._facts.warnings, *beside.warnings, *doubts, *self._given.notes, *assumed)

    def _state_flags(self, given: Mapping[str, Any]) -> None:
        for path, value in given.items():
            if path == "input.size":
                for name, side in zip(("input.height", "input.width"), value, strict=True):
                    self._facts.state(name, side, Rank.FLAG, "--size")
            else:
                self._facts.state(path, value, Rank.FLAG, option_for(path).split(",")[0])

    def _first_run(self) -> tuple[Ran, ...]:
        """Run the file that the user gave on noise. Add its layout, size and batch to the facts."""
        path = self._given.served
        write_whole(path, self._given.content)
        facts = self._facts
        known = facts.value("input.layout")
        layouts = [known] if known else ["nchw", "nhwc"]
        if from_tensorflow(self._given.graph.producer):
            layouts.reverse()
        runs: dict[tuple[str, int | None], tuple[tuple[Ran, ...], bool]] = {}
        failed: TrialFailed | None = None
        refused: RefusedModel | None = None
        bounds = self._given.bounds.from_now()
        for layout in layouts:
            try:
                for channels in self._free_channels(layout):
                    try:
                        runs[layout, channels] = self._run_in(layout, channels, path, bounds)
                    except OutOfTime:
                        raise
                    except TrialFailed as error:
                        failed = failed or error
            except OutOfTime as error:
                raise OutOfTime(f"{self._given.file.name}: {error}") from None
            except RefusedModel as error:  # its sides do not allow this layout
                refused = refused or error
        if failed is not None and not runs:
            raise TrialFailed(f"{self._given.file.name}: {failed}")
        if refused is not None and not runs:
            raise refused
        self._layouts = tuple(dict.fromkeys(layout for layout, _ in runs))
        (layout, channels), (ran, several) = next(iter(runs.items()))
        if channels is not None and sum(other == layout for other, _ in runs) == 1:
            only = "the file, which runs with no other number of channels"
            facts.state("input.channels", channels, Rank.FORCED, only)
        if not known and {other for other, _ in runs} == {layout}:
            facts.state("input.layout", layout, Rank.FORCED, "the file, which runs in no other layout")
        elif not known:
            facts.state("input.layout", layout, Rank.ASSUMED, "the file runs in both layouts")
        read_sides(self._given.graph, layout, facts)
        assume_size(facts)
        if not several:
            facts.state("input.batch", 1, Rank.FORCED, "the file, which does not run on two images at once")
        return ran

    def _possible_layouts(self) -> tuple[str, ...]:
        """Return the layouts between which labelled pictures can decide.

        The first one is the layout in which the file ran first. The other layout is included if the file also
        runs in it, and if height, width and channels of the input are the same in both layouts.
        """
        if not same_in_both_layouts(self._given.graph):
            return self._layouts[:1]
        (claim, *_) = sorted(self._facts.claims["input.layout"], key=lambda claim: claim.rank)
        if len(self._layouts) == 1 and claim.rank is not Rank.FORCED:  # stated: the other was not tried
            other = "nhwc" if self._layouts == ("nchw",) else "nchw"
            with contextlib.suppress(RefusedModel):
                self._run_in(other, None, self._given.served, self._given.bounds)
                self._layouts += (other,)
        return self._layouts

    def _free_channels(self, layout: str) -> tuple[int | None, ...]:
        """Return the numbers of channels to try in one layout, or (None,) if the number is known."""
        facts = self._facts.copy()
        read_sides(self._given.graph, layout, facts)
        return (None,) if facts.known("input.channels") else (3, 1)

    def _run_in(
        self, layout: str, channels: int | None, path: Path, bounds: Bounds
    ) -> tuple[tuple[Ran, ...], bool]:
        """Run the file in one layout. Return its outputs, and whether it runs on two images at once.

        If the batch is fixed, two images are not tried, and the second value is True nevertheless.
        `channels`: the number of channels to try; None if it is known, so that nothing has to be tried.
        """
        facts = self._facts.copy()
        if channels is not None:
            facts.state("input.channels", channels, Rank.FORCED, "the number tried")
        read_sides(self._given.graph, layout, facts)
        assume_size(facts)
        facts.claims["input.layout"] = [Claim(layout, Rank.FORCED, "the layout tried")]
        batch = facts.value("input.batch")
        if batch:
            return run_once(path, [feed(facts, batch)], bounds)[0], True
        try:
            one, two = run_once(path, [feed(facts, 1), feed(facts, 2)], bounds)
        except OutOfTime:
            raise
        except TrialFailed:
            return run_once(path, [feed(facts, 1)], bounds)[0], False
        alike = all(b.shape[:1] == (2,) for a, b in zip(one, two, strict=True) if a.shape[:1] == (1,))
        return one, alike

    def _settle_input(self, preset: str | None) -> None:
        """Add the facts of the preset, then assumed values for facts that no source states.

        Raises RefusedModel.
        """
        facts = self._facts
        height, width, channels = (facts.value(f"input.{side}") for side in ("height", "width", "channels"))
        fit_channels(facts, channels)
        scale_resize(facts, self._given.beside)
        if facts.known("input.mean") != facts.known("input.std"):
            raise RefusedModel("--mean, --std: one is given without the other (allowed: both, or --range)")
        flagged = any(claim.rank is Rank.FLAG for claim in facts.claims.get("input.resize", ()))
        stated = {}
        if preset is not None:
            detector = isinstance(self._ending, DetectorEnding)
            stated = preset_named(preset).values(height, width, channels, detector=detector)
        if facts.value("input.dtype") == "uint8":
            for path, number in (("input.mean", 0.0), ("input.std", 1.0)):
                facts.state(path, (number,) * channels, Rank.FORCED, "the file takes uint8, pixel values")
                stated.pop(path, None)
        if facts.known("input.fitting"):  # a resize belongs to one fitting
            stated.pop("input.resize", None)
        facts.state_all(stated, Rank.PRESET, f"--preset {preset}")
        assume_input(facts, self._given.graph.producer)
        fitting = facts.value("input.fitting")
        if flagged and fitting != "center-crop":
            raise RefusedModel(f"--resize: the fitting is {fitting} (allowed: center-crop)")

    def _input(self, provenance: dict[str, Fact]) -> InputSpec:
        """Return the preprocessing, and add the origin of each of its facts to `provenance`."""
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
        for path, doubt in self._given.beside.doubts.items():
            if path in provenance and provenance[path].origin == "metadata":
                provenance[path] = Fact(origin="assumed", detail=doubt)
        return _validated(InputSpec, values, "input")

    def _describe(self, graph: GraphFacts) -> None:
        """Add the facts that only describe the model and affect no prediction."""
        facts = self._facts
        for path in ("architecture", "block", "source.weights", "source.licence"):
            facts.state(path, UNKNOWN, Rank.ASSUMED, "nothing says")
        parameters = max(1, graph.parameters)
        facts.state("parameters", parameters, Rank.FILE, "counted in the file")
        if graph.macs:
            facts.state("macs", graph.macs, Rank.FILE, "counted in the file")
        else:
            facts.state("macs", parameters, Rank.ASSUMED, "not countable: one for each parameter at least")


def _ending(
    given: Given, ran: Sequence[Ran], wanted: str | None, labels: GivenLabels | None, label_set: str | None
) -> ClassifierEnding | DetectorEnding:
    """Return what reads the outputs: DetectorEnding for a detector, ClassifierEnding for other networks.

    If `--output` names an output, the result is a ClassifierEnding.
    """
    detector = None if wanted is not None else ending_of(given, ran, labels, label_set)
    return detector or ClassifierEnding(given, ran, wanted, labels, label_set)


def flat(card: Card) -> dict[str, Any]:
    """Return the facts of a card by path, e.g. `input.mean`."""
    values: dict[str, Any] = {}
    for key, value in card.model_dump(mode="json", exclude_none=True).items():
        if key in ("input", "outputs", "source"):
            values |= {f"{key}.{inner}": item for inner, item in value.items()}
        elif key == "detection":
            values |= {f"{key}.{inner}": item for inner, item in value.items()}
            values |= {f"{key}.decoder.{inner}": item for inner, item in value["decoder"].items()}
        elif key != "provenance":
            values[key] = value
    return values


def _scores(graph: GraphFacts) -> frozenset[int]:
    """Return the possible numbers of scores per image: each output gives one such number.

    The result is empty if the graph leaves the shape of any output open.
    """
    counts = set()
    for output in graph.outputs:
        sides = [side for side in output.shape[1:] if isinstance(side, int)]
        if len(sides) != len(output.shape) - 1 or not sides:
            return frozenset()
        counts.add(math.prod(sides))
    return frozenset(counts)


def _read_in(data: Mapping[str, Path]) -> tuple[str, ...]:
    """Return one line that names the first three external files whose tensors were read in.

    The result is an empty tuple if there are no such files.
    """
    return (f"tensors of {', '.join(words(name) for name in list(data)[:3])} read in",) if data else ()


def _validated(kind: type[_Model], values: Mapping[str, Any], where: str) -> _Model:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *map(str, first["loc"])])
        raise RefusedModel(one_line(f"{place}: {first['msg'].removeprefix('Value error, ')}")) from None
