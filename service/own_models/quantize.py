"""Quantize a float model to int8: calibrate on pictures, judge on other pictures, and add it to the zoo."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.onnx_tools.choose_plan import Choice, choose_plan
from models.onnx_tools.describe import describe
from models.onnx_tools.inspect import UnreadableModel, output_activation
from models.onnx_tools.simplify import simplify
from models.zoo.card import Accuracy, Activation, Agreement, Card, Fact, Interval, ModelFile, write_card
from models.zoo.files import write_whole
from models.zoo.labels import read_labels
from service.errors import ModelExists, RefusedModel
from service.inference.registry import Registry
from service.inference.runtime_errors import one_line, runtime_words
from service.inference.session import OnnxSession
from service.own_models.add import check_name
from service.own_models.facts import words
from service.own_models.folders import check_free, move_in, workplace
from service.own_models.judging import (
    Folder,
    Judgement,
    Picture,
    compare_predictions,
    feeds,
    predictions,
    read_folder,
    read_pictures,
    refuse_shared,
)
from service.own_models.sources.pictures import labelled_pictures
from service.own_models.trial import Bounds, TrialFailed, serve_once

INT8_SUFFIX = "-int8"
LEAST_PICTURES = 8
MOST_PICTURES = 256
"""Maximum number of pictures for calibration. They are evenly spread over the folder."""
FEW_PICTURES = 32
"""With fewer calibration pictures than this, a warning says that int8 could be closer to the float model."""
_HELD_OUT = 4
"""If the user gives no pictures for judging, every fourth calibration picture is used for judging instead."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to quantize a model.

    `calibrate`: a folder of pictures. `judge`: a folder of other pictures; it may have a subfolder per class.
    `mapping`: a file that maps the subfolders' names to labels. `max_loss`: percentage points of accuracy
    that int8 may lose. `name`: name of the new model, by default the parent's with `-int8` appended.
    """

    calibrate: Path
    judge: Path | None = None
    mapping: Path | None = None
    max_loss: float = 0.5
    name: str | None = None


@dataclass(frozen=True)
class Quantized:
    """A new int8 model, its parent, and how the two compare.

    `content` and `parent_content`: their ONNX files. `choice`: how the network was quantized.
    """

    folder: Path
    card: Card
    parent: Card
    parent_content: bytes
    content: bytes
    choice: Choice
    judgement: Judgement
    warnings: tuple[str, ...]


def quantize_model(
    registry: Registry,
    model: str,
    options: Options,
    *,
    to: Path,
    replace: bool = False,
    bounds: Bounds | None = None,
    taken: Collection[str] = (),
    alone: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Quantized:
    """Write the int8 variant of `model` to the zoo folder `to`, and compare it with `model`.

    `taken`: names of models in folders that are searched before `to`. `alone`: copy the parent's last linear
    layer, so that the new folder does not need the parent's. Raises UnknownModel, ModelUnavailable,
    ModelExists, StorageUnavailable, and RefusedModel for an unsuitable model, unsuitable pictures, or a loss
    over `options.max_loss`. After an error, `to` is unchanged.
    """
    parent, content = registry.content(model)
    _check_float(parent, content)
    name = check_name(options.name or f"{model}{INT8_SUFFIX}")
    if name in taken:
        raise ModelExists(f"model '{name}': exists in WEIGHIN_MODEL_DIRS (allowed: another --name)")
    check_free(to, name, replace=replace)
    source = registry.entry(model).folder
    calibration, judging, warnings = _pictures(parent, source, options)
    activation = parent.outputs.get("activation") or output_activation(content, parent.output_name("logits"))
    progress(f"{model}: running on {len(judging)} pictures")
    expected = predictions(OnnxSession(content, parent), judging, parent.input, activation)
    choice = _choose(parent, content, calibration, activation, progress)
    card = _card(parent, name, choice)
    progress(f"{name}: judging on {len(judging)} pictures")
    found = predictions(OnnxSession(choice.content, card), judging, card.input, activation)
    judgement = compare_predictions(expected, found, judging)
    warnings += _check_loss(parent, judgement, options.max_loss)
    card = _with_evidence(card, parent, judgement, len(calibration), options)
    with workplace(to, name) as folder:
        write_whole(folder / card.file.name, choice.content)
        if (source / "labels.txt").exists():
            shutil.copyfile(source / "labels.txt", folder / "labels.txt")
        if card.classifier is not None and alone:
            own = card.classifier.model_copy(update={"model": name})
            shutil.copyfile(
                registry.entry(card.classifier.model).folder / own.file.name, folder / own.file.name
            )
            card = card.model_copy(update={"classifier": own})
        write_card(folder, card)
        try:
            serve_once(folder, bounds or Bounds())
        except TrialFailed as error:
            raise TrialFailed(f"{name}: {error}") from None
        target = move_in(folder, to, replace=replace)
    return Quantized(target, card, parent, content, choice.content, choice, judgement, tuple(warnings))


def _check_float(card: Card, content: bytes) -> None:
    """Raise RefusedModel for a model that is not float32."""
    precision = card.precision if card.precision != "fp32" else describe(content).precision
    if precision == "int8":
        raise RefusedModel(f"model '{card.name}': is int8 already (allowed: a float32 model)")
    if precision == "fp16":
        raise RefusedModel(
            f"model '{card.name}': is float16 (allowed: a float32 model); export the network in float32, add "
            "that file with weighin add, and quantize it"
        )


def _pictures(
    card: Card, folder: Path, options: Options
) -> tuple[list[Picture], list[Picture], tuple[str, ...]]:
    """Return the pictures for calibration, the pictures for judging, and warnings."""
    spec = card.input
    found = read_folder(options.calibrate, spec, option="--calibrate", most=MOST_PICTURES)
    calibration = list(found.pictures)
    warnings = [_unreadable("--calibrate", found.unreadable)]
    if options.judge is None:
        if options.mapping is not None:
            raise RefusedModel("--mapping: needs --judge with a folder for each class")
        judging = calibration[_HELD_OUT - 1 :: _HELD_OUT]
        del calibration[_HELD_OUT - 1 :: _HELD_OUT]
    else:
        judged = _judging(card, folder, options.judge, options.mapping)
        warnings.append(_unreadable("--judge", judged.unreadable))
        judging = list(judged.pictures)
        refuse_shared(calibration, judging)
    if len(calibration) < LEAST_PICTURES or not judging:
        unreadable = "".join(f"; {each}" for each in warnings if each)
        spare = "" if options.judge is not None else ", and some more to judge on, or --judge"
        raise RefusedModel(
            f"--calibrate {words(options.calibrate.name)}: {len(found.pictures)} different pictures can be "
            f"read (allowed: {LEAST_PICTURES} or more{spare}){unreadable}"
        )
    if len(calibration) < FEW_PICTURES:
        warnings.append(
            f"calibrated on {len(calibration)} pictures only: with {FEW_PICTURES} or more, like those that "
            "the model will get, int8 is closer to the float model"
        )
    return calibration, judging, tuple(each for each in warnings if each)


def _judging(card: Card, folder: Path, judge: Path, mapping: Path | None) -> Folder:
    """Read the pictures for judging. They have labels if the folder `judge` has a subfolder for each class.

    Raises RefusedModel.
    """
    classes = judge.is_dir() and any(path.is_dir() and path.name[:1] != "." for path in judge.iterdir())
    if mapping is not None and not classes:
        raise RefusedModel(f"--mapping: --judge {words(judge.name)} has no folder for each class")
    if not classes or card.classes == 1:
        found = read_folder(judge, card.input, option="--judge")
    else:
        labels = read_labels(card, folder)
        labelled = labelled_pictures(judge, labels, card.labels, mapping, option="--judge")
        found = read_pictures(labelled, card.input)
    if not found.pictures:
        raise RefusedModel(_unreadable(f"--judge {words(judge.name)}: no picture", found.unreadable))
    return found


def _unreadable(what: str, problems: Mapping[str, str]) -> str:
    """Return a line that names the pictures that cannot be read, or an empty text if all can be read."""
    if not problems:
        return ""
    named = "; ".join(f"{words(name)}: {words(problem)}" for name, problem in list(problems.items())[:5])
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return f"{what}: {len(problems)} files cannot be read ({named}{more})"


def _choose(
    card: Card,
    content: bytes,
    pictures: Sequence[Picture],
    activation: Activation,
    progress: Callable[[str], None],
) -> Choice:
    """Quantize the network. Raises RefusedModel with the reason if the network cannot be quantized."""
    try:
        return choose_plan(
            simplify(content),
            feeds(pictures, card.input),
            output=card.output_name("logits"),
            activation=activation,
            size=(card.input.height, card.input.width),
            progress=lambda step: progress(f"{card.name}: {step}"),
        )
    except (UnreadableModel, ValueError) as error:
        problem = str(error)
    except Exception as error:  # onnxruntime and onnx raise a dozen own types
        problem = runtime_words(error)
    raise RefusedModel(one_line(f"model '{card.name}': cannot be quantized: {problem}"))


def _card(parent: Card, name: str, choice: Choice) -> Card:
    """Return the card of the int8 model, without its agreement with the parent and without its accuracy."""
    graph = describe(choice.content)
    layers = ", ".join(words(layer) for layer in choice.kept[:12])
    more = f" and {len(choice.kept) - 12} more" if len(choice.kept) > 12 else ""
    kept = f"{layers}{more}, " if layers else ""
    provenance = dict(parent.provenance) | {
        "precision": Fact(origin="flag", detail=f"weighin quantize {parent.name}")
    }
    changes = {
        "schema_version": 2,
        "name": name,
        "precision": "int8",
        "file": ModelFile(
            name="model.onnx",
            bytes=len(choice.content),
            sha256=hashlib.sha256(choice.content).hexdigest(),
            opset=graph.opset,
            initializer_elements=graph.initializer_elements,
        ),
        "accuracy": None,
        "robustness": None,
        "agreement": None,
        "retrieval": None,
        "given": None,
        "derived_from": parent.name,
        "provenance": provenance,
        "notes": (
            *parent.notes,
            "static QDQ, uint8 activations, int8 weights per output channel, minmax ranges, biases corrected",
            f"in floating point: {kept}pooling, classifier ({len(choice.kept)} of {choice.layers} layers "
            "before the last pooling)",
            f"divergence from {parent.name} on the calibration pictures: {choice.divergence:.2g} nats, with "
            f"all layers in int8 {choice.everything:.2g}",
        ),
    }
    return Card.model_validate(parent.model_dump() | changes)


def _check_loss(parent: Card, judgement: Judgement, allowed: float) -> tuple[str, ...]:
    """Return warnings about the loss of accuracy. Raises RefusedModel if the loss is certainly too large."""
    pair = judgement.paired
    if pair is None:
        return ("the loss of accuracy is not known: --judge with a folder for each class measures it",)
    if 100 * pair.low > allowed:
        raise RefusedModel(
            f"model '{parent.name}': {judgement.loss} on {pair.n} pictures, --max-loss is {allowed:g}; "
            "nothing was written (allowed: more calibration pictures, like those that it will get, or a "
            "larger --max-loss)"
        )
    if 100 * pair.high > allowed:
        return (
            f"{judgement.loss}: {pair.n} pictures do not show whether it is more than the {allowed:g} points "
            "of --max-loss; more pictures in --judge can show it",
        )
    return ()


def _with_evidence(
    card: Card, parent: Card, judgement: Judgement, calibrated_on: int, options: Options
) -> Card:
    """Return `card` with the int8 model's agreement with its parent, and with its accuracy."""
    where = words((options.judge or options.calibrate).name)
    others = (
        f"{calibrated_on} others of the same folder"
        if options.judge is None
        else f"{calibrated_on} pictures in {words(options.calibrate.name)}"
    )
    how = f"{judgement.n} pictures in {where}, calibrated on {others}"
    agreement = Agreement(
        parent=parent.name,
        value=round(judgement.same / judgement.n, 4),
        n=judgement.n,
        interval=judgement.interval,
        how=f"same top-1 class on {how}",
    )
    accuracy = None
    if parent.accuracy is not None:
        accuracy = Accuracy(
            value=parent.accuracy.value,
            kind="inherited",
            dataset=parent.accuracy.dataset,
            n=parent.accuracy.n,
            how=f"{parent.accuracy.kind} for {parent.name}; see also the agreement with it",
        )
    elif judgement.right is not None:
        right = judgement.right[1]
        accuracy = Accuracy(
            value=round(right / judgement.n, 4),
            kind="measured",
            dataset=f"pictures in {where}",
            n=judgement.n,
            interval=Interval.wilson(right, judgement.n),
            correct=right,
            how=f"top-1 on {how}",
        )
    notes = card.notes if judgement.accuracy is None else (*card.notes, f"on {how}: {judgement.accuracy}")
    provenance = dict(card.provenance) | {"agreement": Fact(origin="pictures", detail=how)}
    if judgement.accuracy is not None:
        provenance["accuracy"] = Fact(origin="pictures", detail=judgement.accuracy)
    changes = {
        "agreement": agreement,
        "accuracy": accuracy,
        "notes": notes,
        "provenance": {path: provenance[path] for path in sorted(provenance)},
    }
    return Card.model_validate(card.model_dump() | changes)
