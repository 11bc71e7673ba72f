"""`weighin add FILE`: make a model from an ONNX file, and print the source of each fact about it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from models.zoo.card import Card
from models.zoo.display import without_surrogates
from service.cli.output import console, print_document, say, styled
from service.cli.settings import settings_with
from service.errors import RefusedModel, UnreadableFolder
from service.inference.registry import Registry
from service.own_models.add import Added, Bounds, Options, add
from service.own_models.draft import flat
from service.own_models.facts import numbers, words
from service.own_models.sources.presets import PRESETS

_INPUT, _OUTPUT, _WORDS = "Facts of the input", "Facts of the outputs", "Facts for the tables"
_DETECTOR = "Facts of a detector"
_RANGES = {"0..255": (0.0, 1.0), "0..1": (0.0, 255.0), "-1..1": (127.5, 127.5)}
_FIRST = (
    "labels", "classes", "input.name", "input.layout", "input.dtype", "input.batch", "input.height",
    "input.width",
)  # fmt: skip


def add_model(
    file: Annotated[Path, typer.Argument(help="The ONNX file")],
    name: Annotated[str | None, typer.Option(help="Name of the model [default: from the file]")] = None,
    labels: Annotated[str | None, typer.Option(help="A file of class names, or a built-in label set")] = None,
    label_set: Annotated[str | None, typer.Option(help="Name of the label set that the names form")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Labelled pictures, a folder per class, to find out unknown facts")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="File that maps the folder names in --images to labels")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"Prepare images as this framework does: {', '.join(PRESETS)}")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder of models [default: models in WEIGHIN_DATA_DIR]")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a model of that name")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON")] = False,
    time_limit: Annotated[
        float, typer.Option(min=1, help="Maximum seconds to load the file and run it once")
    ] = Bounds.seconds,
    memory_limit: Annotated[
        float, typer.Option(min=0.1, help="Maximum memory to load and run the file, in GiB")
    ] = Bounds.memory_bytes / (1 << 30),
    size: Annotated[
        str | None, typer.Option(help="224, or 240x320 (height x width)", rich_help_panel=_INPUT)
    ] = None,
    range_: Annotated[
        str | None,
        typer.Option("--range", help="Values of pixels: 0..255, 0..1, -1..1", rich_help_panel=_INPUT),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean per channel, e.g. 0.485,0.456,0.406; for pixels from 0 to 1, or from 0 to 255 with "
            "--range 0..255",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(help="Standard deviation per channel, as --mean", rich_help_panel=_INPUT),
    ] = None,
    colour_order: Annotated[str | None, typer.Option(help="rgb, bgr", rich_help_panel=_INPUT)] = None,
    layout: Annotated[str | None, typer.Option(help="nchw, nhwc", rich_help_panel=_INPUT)] = None,
    channels: Annotated[int | None, typer.Option(help="1, 3", rich_help_panel=_INPUT)] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16, uint8", rich_help_panel=_INPUT)] = None,
    batch: Annotated[int | None, typer.Option(help="Fixed batch size", rich_help_panel=_INPUT)] = None,
    fitting: Annotated[
        str | None, typer.Option(help="center-crop, stretch, letterbox, pad", rich_help_panel=_INPUT)
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Shorter side before the centre crop, e.g. 256", rich_help_panel=_INPUT)
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(help="nearest, box, bilinear, hamming, bicubic, lanczos", rich_help_panel=_INPUT),
    ] = None,
    pad_value: Annotated[
        int | None, typer.Option(help="Value of added borders, 0 to 255", rich_help_panel=_INPUT)
    ] = None,
    polarity: Annotated[
        str | None, typer.Option(help="as-is, light-on-dark (grey images)", rich_help_panel=_INPUT)
    ] = None,
    input_name: Annotated[
        str | None, typer.Option("--input", help="Input of the graph", rich_help_panel=_INPUT)
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Output of the graph with the scores", rich_help_panel=_OUTPUT)
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(help="What the network applies: none, softmax, sigmoid", rich_help_panel=_OUTPUT),
    ] = None,
    class_offset: Annotated[
        int | None, typer.Option(help="1 if output 0 is a background class, else 0", rich_help_panel=_OUTPUT)
    ] = None,
    multi_label: Annotated[
        bool | None,
        typer.Option(
            "--multi-label/--single-label", help="Several classes may be right", rich_help_panel=_OUTPUT
        ),
    ] = None,
    box_format: Annotated[
        str | None, typer.Option(help="Numbers of a box: xyxy, yxyx, cxcywh", rich_help_panel=_DETECTOR)
    ] = None,
    box_unit: Annotated[
        str | None, typer.Option(help="pixels, or fractions of the input", rich_help_panel=_DETECTOR)
    ] = None,
    score_activation: Annotated[
        str | None,
        typer.Option(
            help="Activation to apply to the scores: none, sigmoid, softmax", rich_help_panel=_DETECTOR
        ),
    ] = None,
    no_object: Annotated[
        bool | None,
        typer.Option(
            "--no-object/--only-classes", help="The last score is for 'no object'", rich_help_panel=_DETECTOR
        ),
    ] = None,
    suppression: Annotated[
        str | None,
        typer.Option(
            help="How to drop overlapping boxes: by-class, over-classes, none", rich_help_panel=_DETECTOR
        ),
    ] = None,
    iou: Annotated[
        float | None,
        typer.Option(help="Overlap from which a box is dropped, 0 to 1", rich_help_panel=_DETECTOR),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Minimum score, 0 to 1", rich_help_panel=_DETECTOR)
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="E.g. mobilenet-v3", rich_help_panel=_WORDS)
    ] = None,
    block: Annotated[
        str | None, typer.Option(help="Block family, e.g. inverted-residual", rich_help_panel=_WORDS)
    ] = None,
    parameters: Annotated[
        int | None, typer.Option(help="Number of parameters, as in the paper", rich_help_panel=_WORDS)
    ] = None,
    macs: Annotated[int | None, typer.Option(help="MACs per image", rich_help_panel=_WORDS)] = None,
    weights: Annotated[
        str | None, typer.Option(help="Where the weights come from", rich_help_panel=_WORDS)
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights", rich_help_panel=_WORDS)
    ] = None,
) -> None:
    """Add an ONNX file as a model: read its facts, run it once, write its folder.

    A running service on the same data directory serves the model within two seconds. Facts that no source
    states are assumed. They are listed, with the option that sets each; --preset or --images can also set
    them.
    """
    facts: dict[str, Any] = {
        "input.size": None if size is None else _size(size),
        **_pixels(range_, mean, std),
        "input.colour_order": colour_order,
        "input.layout": layout,
        "input.channels": channels,
        "input.dtype": dtype,
        "input.batch": batch,
        "input.fitting": fitting,
        "input.resize": resize,
        "input.interpolation": interpolation,
        "input.pad_value": pad_value,
        "input.polarity": polarity,
        "input.name": input_name,
        "output": output,
        "outputs.activation": activation,
        "outputs.class_offset": class_offset,
        "outputs.multi_label": multi_label,
        "detection.decoder.format": box_format,
        "detection.decoder.unit": box_unit,
        "detection.decoder.activation": score_activation,
        "detection.decoder.no_object": no_object,
        "detection.suppression": suppression,
        "detection.iou": iou,
        "detection.min_score": min_score,
        "architecture": architecture,
        "block": block,
        "parameters": parameters,
        "macs": macs,
        "source.weights": weights,
        "source.licence": licence,
    }
    options = Options(
        name=name,
        labels=labels,
        label_set=label_set,
        images=images,
        mapping=mapping,
        preset=preset,
        facts={path: value for path, value in facts.items() if value is not None},
    )
    folder, taken = _destination(to)
    bounds = Bounds(time_limit, int(memory_limit * (1 << 30)))
    added = add(file, options, to=folder, replace=replace, bounds=bounds, taken=taken)
    if as_json:
        print_document(json.dumps(as_object(added), ensure_ascii=False) + "\n")
        return
    _show(added)


def _destination(to: Path | None) -> tuple[Path, Collection[str]]:
    """Return the folder to add to, and the names of models in folders that are searched earlier.

    An added model with one of these names would not be served. Folders of WEIGHIN_MODEL_DIRS that cannot be
    read are ignored.
    """
    settings = settings_with()
    folder = settings.added_models if to is None else to
    before: list[Path] = []
    for searched in settings.model_dirs:
        if searched.resolve() == folder.resolve():
            break
        before.append(searched)
    else:
        if folder.resolve() != settings.added_models.resolve():
            return folder, ()  # the service does not search this folder
    taken: set[str] = set()
    for searched in before:
        with contextlib.suppress(FileNotFoundError, UnreadableFolder):
            taken.update(Registry([searched], settings.default_model).names())
    return folder, taken


def as_object(added: Added) -> dict[str, Any]:
    """Return the object that `--json` prints (schema: `AddedModel`)."""
    return {
        "name": added.card.name,
        "folder": without_surrogates(str(added.folder)),
        "changes": added.changes,
        "warnings": added.warnings,
        "assumed": added.card.assumed,
        "card": added.card.model_dump(mode="json", exclude_none=True),
    }


def _show(added: Added) -> None:
    out = console()
    card = added.card
    table = Table("fact", "value", "origin", "from", box=None, pad_edge=False)
    values = _shown_values(card)
    for path in sorted(values, key=_place):
        fact = card.provenance[path]
        detail = fact.detail or ""
        if fact.undecided:
            detail = f"undecided among {', '.join(fact.undecided)}; {detail}"
        assumed = fact.origin == "assumed"
        style = "yellow" if assumed else ""
        table.add_row(
            styled((f"{'! ' if assumed else '  '}{path}", style)), words(values[path]),
            styled((fact.origin, style)), detail,
        )  # fmt: skip
    out.print(table)
    for change in added.changes:
        say(f"changed: {change}")
    for warning in added.warnings:
        say(f"warning: {warning}", error=True)
    say(f"{card.name}: added in {added.folder}")


def _shown_values(card: Card) -> dict[str, Any]:
    values = flat(card)
    outputs = card.outputs
    named = {
        f"outputs.{name}": f"'{card.output_name(name)}' {shape}" for name, shape in card.output_shapes.items()
    }
    values |= named
    if "logits" in outputs:
        values["outputs.activation"] = outputs.get("activation", "none")
    return {path: values.get(path, "") for path in card.provenance}


def _place(path: str) -> tuple[int, int, str]:
    group = next(
        (
            at
            for at, prefix in enumerate(("labels", "classes", "input.", "outputs.", "detection."))
            if path.startswith(prefix)
        ),
        5,
    )
    return group, _FIRST.index(path) if path in _FIRST else len(_FIRST), path


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise RefusedModel(f"--size '{text}': not a size (allowed: 224, or 240x320, height x width)")
    return int(sides[0]), int(sides[-1])


def _pixels(range_: str | None, mean: str | None, std: str | None) -> dict[str, Any]:
    """Return the facts `input.mean` and `input.std` that the options set, for pixel values from 0 to 255."""
    if range_ is not None and range_ not in _RANGES:
        raise RefusedModel(f"--range '{range_}': unknown (allowed: {', '.join(_RANGES)})")
    if mean is None and std is None:
        if range_ is None:
            return {}
        low, scale = _RANGES[range_]
        return {"input.mean": (low,), "input.std": (scale,)}
    if mean is None or std is None:
        raise RefusedModel("--mean, --std: one is given without the other (allowed: both, or --range)")
    if range_ == "-1..1":
        raise RefusedModel("--range -1..1: has a mean and std of its own (allowed: without --mean and --std)")
    values = {"mean": _numbers(mean, "--mean"), "std": _numbers(std, "--std")}
    if range_ == "0..255":
        return {f"input.{name}": given for name, given in values.items()}
    if max(map(abs, (*values["mean"], *values["std"]))) > 2:
        raise RefusedModel(
            f"--mean {mean} --std {std}: too large for pixels from 0 to 1 (allowed: up to 2; for pixels "
            "from 0 to 255 add --range 0..255)"
        )
    return {f"input.{name}": tuple(255 * number for number in given) for name, given in values.items()}


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return numbers([float(part) for part in text.split(",")], (1, 3), option)
    except ValueError:
        raise RefusedModel(
            f"{option} '{text}': not numbers (allowed: 1 or 3, e.g. 0.485,0.456,0.406)"
        ) from None
