"""Conventions of networks: the common ways to preprocess pictures and to read scores."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from models.zoo.card import Card, InputSpec

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

NORMALISATIONS: Mapping[str, Normalisation] = {
    "0 to 255": ((0.0,) * 3, (1.0,) * 3),
    "0 to 1": ((0.0,) * 3, (255.0,) * 3),
    "-1 to 1": ((127.5,) * 3, (127.5,) * 3),
    "ImageNet mean and deviation": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "ImageNet mean, 0 to 255": ((123.68, 116.779, 103.939), (1.0,) * 3),
}
"""Mean and deviation in pixel values, in the order red, green, blue, by name.

Those that assume less about the network come first."""
FILTERS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Convention:
    """One way to prepare a picture and to read the scores.

    `offset`: the number of scores before that of the first class. `values`: the value of each fact in words,
    by path. The path `input.mean` stands for mean and std, `input.fitting` for fitting and resize.
    """

    input: InputSpec
    offset: int
    values: Mapping[str, str]


def of_tensors(
    card: Card, fixed: Collection[str], *, layouts: Collection[str], offsets: Collection[int]
) -> Iterator[Convention]:
    """Yield the card's convention, and conventions with other values of the facts that are not in `fixed`.

    The conventions combine every normalisation and colour order with each of `layouts` and each class offset
    in `offsets`. For each fact, the card's value comes first, followed by the other values. Normalisations
    that assume less come earlier. The caller provides `layouts` and `offsets` with the card's value first.
    """
    spec = card.input
    own = (spec.mean, spec.std)
    assumed = _known(own) or _known((spec.mean[::-1], spec.std[::-1]))
    ranges = {name: NORMALISATIONS[name] for name in dict.fromkeys([*assumed, *NORMALISATIONS])}
    if "input.mean" in fixed or spec.dtype == "uint8" or spec.channels != 3:
        ranges = {normalisation_name(own): own}
    orders = (spec.colour_order,) if "input.colour_order" in fixed or spec.channels != 3 else ("rgb", "bgr")
    if spec.colour_order == "bgr":
        orders = orders[::-1]
    for layout in (spec.layout,) if "input.layout" in fixed else layouts:
        for offset in (card.class_offset,) if "outputs.class_offset" in fixed else offsets:
            for name, (mean, std) in ranges.items():
                for order in orders:
                    backwards = order == "bgr" and len(ranges) > 1
                    changes = {
                        "mean": mean[::-1] if backwards else mean,
                        "std": std[::-1] if backwards else std,
                        "colour_order": order,
                        "layout": layout,
                    }
                    values = {
                        "input.mean": name,
                        "input.colour_order": order,
                        "input.layout": layout,
                        "outputs.class_offset": offset_words(offset),
                    }
                    yield Convention(spec.model_copy(update=changes), offset, values)


def of_fittings(spec: InputSpec, offset: int) -> Iterator[Convention]:
    """Yield conventions with every common fitting and filter.

    The first convention has the fitting and filter of `spec`.
    """
    side = max(spec.height, spec.width)
    specs = [spec]
    for fitting, resize in (
        (spec.fitting, spec.resize),
        ("center-crop", round(side / 0.875)),
        ("center-crop", side),
        ("stretch", side),
        ("letterbox", side),
    ):
        for interpolation in (spec.interpolation, *FILTERS):
            changes = {"fitting": fitting, "resize": resize, "interpolation": interpolation}
            specs.append(spec.model_copy(update=changes))
    for other in dict.fromkeys(specs):
        values = {"input.fitting": fitting_words(other), "input.interpolation": other.interpolation}
        yield Convention(other, offset, values)


def differing(one: Convention, other: Convention) -> set[str]:
    """Return the paths of the facts in which two conventions of `of_tensors` differ.

    Differences between numbers that may be due to rounding are ignored.
    """
    facts = {
        path
        for path in ("input.colour_order", "input.layout", "outputs.class_offset")
        if one.values[path] != other.values[path]
    }
    means = np.allclose(one.input.mean, other.input.mean, atol=2)
    return (
        facts if means and np.allclose(one.input.std, other.input.std, rtol=0.02) else {*facts, "input.mean"}
    )


def fitting_words(spec: InputSpec) -> str:
    """Return the fitting of an input in words, e.g. "center-crop of 256"."""
    return f"{spec.fitting} of {spec.resize}" if spec.fitting == "center-crop" else spec.fitting


def offset_words(offset: int) -> str:
    """Describe in words which scores belong to the classes, for a class offset."""
    return "the first score is a background class" if offset else "the classes begin at the first score"


def normalisation_name(normalisation: Normalisation) -> str:
    """Return the name of a normalisation, or its mean and standard deviation if it has no name."""
    known = _known(normalisation)
    return known[0] if known else f"mean {list(normalisation[0])}, std {list(normalisation[1])}"


def _known(normalisation: Normalisation) -> list[str]:
    """Return the names of the normalisations in NORMALISATIONS that equal this one within rounding.

    The list has one name or none.
    """
    return [
        name
        for name, known in NORMALISATIONS.items()
        if len(normalisation[0]) == 3 and np.allclose(known, normalisation, atol=1e-3)
    ]
