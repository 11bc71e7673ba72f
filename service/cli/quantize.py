"""`weighin quantize MODEL --calibrate DIR`: make an int8 variant of a model, and judge whether it pays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from models.zoo.display import without_surrogates
from service.bench.doctor.int8_gain import Int8Gain, measure_gain
from service.bench.doctor.model import ModelUnderTest
from service.cli.output import print_document, say
from service.cli.settings import settings_with
from service.inference.registry import Registry
from service.own_models.quantize import Options, Quantized, quantize_model


def quantize(
    model: Annotated[str, typer.Argument(help="Name of a float32 model")],
    calibrate: Annotated[
        Path, typer.Option(help="Folder of pictures like those that the model will get; 100 to 200 suffice")
    ],
    judge: Annotated[
        Path | None,
        typer.Option(
            help="Folder of other pictures; if it has a folder for each class, accuracy is measured, too "
            "[default: every fourth picture of --calibrate]"
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="File that maps the folder names in --judge to labels")
    ] = None,
    max_loss: Annotated[
        float, typer.Option(min=0, max=100, help="Accuracy that int8 may lose, in percentage points")
    ] = 0.5,
    name: Annotated[str | None, typer.Option(help="Name of the new model [default: MODEL-int8]")] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder of models [default: models in WEIGHIN_DATA_DIR]")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a model of that name")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON")] = False,
) -> None:
    """Make a static int8 variant of a model, keep both, and say whether int8 pays on this machine.

    Layers whose quantization changes predictions stay in float. The command takes a minute or two on one
    core. A running service on the same data directory serves the new model within two seconds.
    """
    settings = settings_with()
    registry = Registry(settings.model_dirs, settings.default_model, added=settings.added_models)
    options = Options(calibrate=calibrate, judge=judge, mapping=mapping, max_loss=max_loss, name=name)
    made = quantize_model(
        registry,
        model,
        options,
        to=settings.added_models if to is None else to,
        replace=replace,
        taken=() if to is not None else Registry(settings.model_dirs, settings.default_model).names(),
        alone=to is not None,
        progress=lambda step: say(step, error=True),
    )
    gain = measure_gain(
        ModelUnderTest(made.parent, made.parent_content), ModelUnderTest(made.card, made.content)
    )
    sentence = gain.sentence(made.judgement.agreement)
    if as_json:
        print_document(json.dumps(_as_object(made, gain, sentence), ensure_ascii=False) + "\n")
        return
    card = made.card
    kept = ", ".join(made.choice.kept) or "none"
    say(f"layers in float before the last pooling: {kept} ({len(made.choice.kept)} of {made.choice.layers})")
    if made.judgement.accuracy is not None:
        say(f"accuracy: {made.judgement.accuracy}")
    for warning in made.warnings:
        say(f"warning: {warning}", error=True)
    say(sentence)
    if gain.eaten is not None:
        say(gain.eaten)
    say(f"{card.name}: added in {made.folder}")


def _as_object(made: Quantized, gain: Int8Gain, sentence: str) -> dict[str, Any]:
    """Return the object that `--json` prints (schema: `QuantizedModel`)."""
    judgement, timing = made.judgement, gain.timing
    pair = judgement.paired
    return {
        "name": made.card.name,
        "folder": without_surrogates(str(made.folder)),
        "parent": made.parent.name,
        "in_float": made.choice.kept,
        "layers": made.choice.layers,
        "divergence": made.choice.divergence,
        "divergence_all_int8": made.choice.everything,
        "agreement": judgement.same / judgement.n,
        "pictures": judgement.n,
        "accuracy": None
        if judgement.right is None or pair is None
        else {
            "float": judgement.right[0] / judgement.n,
            "int8": judgement.right[1] / judgement.n,
            "loss_points": 100 * pair.difference,
            "loss_low": 100 * pair.low,
            "loss_high": 100 * pair.high,
            "p": pair.p,
        },
        "int8": {
            "verdict": gain.verdict,
            "sentence": sentence,
            "speedup": timing.ratio,
            "speedup_low": timing.low,
            "speedup_high": timing.high,
            "float_ms": timing.a_ns / 1e6,
            "int8_ms": timing.b_ns / 1e6,
            "float_bytes": gain.parent_bytes,
            "int8_bytes": gain.int8_bytes,
            "activations_in_float": dict(gain.activations),
            "conversions": gain.conversions,
            "eaten_by": gain.eaten,
        },
        "warnings": made.warnings,
        "card": made.card.model_dump(mode="json", exclude_none=True),
    }
