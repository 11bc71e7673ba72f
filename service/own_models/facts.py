"""Facts of a card and their sources: decide which source counts if several sources state the same fact."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from models.zoo.card import Fact, InputSpec, Origin, decides_predictions
from models.zoo.display import shown
from service.errors import RefusedModel

OPTIONS: dict[str, str] = {
    "input.size": "--size",
    "input.height": "--size",
    "input.width": "--size",
    "input.resize": "--resize",
    "input.mean": "--mean, or --range",
    "input.std": "--std, or --range",
    "input.interpolation": "--interpolation",
    "input.polarity": "--polarity",
    "input.name": "--input",
    "input.layout": "--layout",
    "input.colour_order": "--colour-order",
    "input.dtype": "--dtype",
    "input.batch": "--batch",
    "input.fitting": "--fitting",
    "input.pad_value": "--pad-value",
    "input.channels": "--channels",
    "outputs.logits": "--output",
    "outputs.activation": "--activation",
    "outputs.class_offset": "--class-offset",
    "outputs.multi_label": "--multi-label",
    "detection.decoder.format": "--box-format",
    "detection.decoder.unit": "--box-unit",
    "detection.decoder.activation": "--score-activation",
    "detection.decoder.no_object": "--no-object",
    "detection.min_score": "--min-score",
    "detection.iou": "--iou",
    "detection.suppression": "--suppression",
    "labels": "--labels",
    "architecture": "--architecture",
    "block": "--block",
    "parameters": "--parameters",
    "macs": "--macs",
    "source.weights": "--weights",
    "source.licence": "--licence",
}
"""For each fact by path, the option of `weighin add` that sets it."""

_PHRASES = {
    ", or --range": "",
    "--labels FILE gives others": "the part labels gives others",
    "name one with --output NAME": "name one as card.outputs.names.logits",
}
_FIELDS = {
    **{option.split(",")[0]: f"card.{path}" for path, option in OPTIONS.items()},
    "--size": "card.input.height and width",
    "--output": "card.outputs.names.logits",
    "--label-set": "card.labels",
    "--labels": "labels",
    "--name": "name",
    "--preset": "preset",
}
"""For each command line option, what corresponds to it in a request to `POST /models`.

This is a part or query parameter of the request, or a field of its card."""
_OPTION = re.compile(r"--[a-z]+(?:-[a-z]+)*")
_COMMAND = re.compile(r"((?:python -m|optimum-cli) .*)", re.DOTALL)
"""Pattern for a command of another program in a message. `in_form_words` does not change such a command."""

UNKNOWN = "unknown"
"""Value of a descriptive fact that no source states."""


class Rank(IntEnum):
    """Precedence of the sources: the claim with the lowest rank counts."""

    FORCED = 0
    """The file cannot be run with any other value, so a flag may not contradict this one."""
    FLAG = 1
    METADATA = 2
    PRESET = 3
    PICTURES = 4
    FILE = 5
    """The file suggests this value, e.g. by the names of its outputs."""
    ASSUMED = 6


_ORIGINS: dict[Rank, Origin] = {
    Rank.FORCED: "file",
    Rank.FLAG: "flag",
    Rank.METADATA: "metadata",
    Rank.PRESET: "flag",
    Rank.PICTURES: "pictures",
    Rank.FILE: "file",
    Rank.ASSUMED: "assumed",
}


@dataclass(frozen=True)
class Claim:
    """The value that one source states for one fact. `detail` describes the source.

    `undecided`: the values that labelled pictures cannot tell apart.
    """

    value: Any
    rank: Rank
    detail: str
    undecided: tuple[str, ...] = ()

    @property
    def fact(self) -> Fact:
        """Where the fact comes from, for the card.

        The origin is "assumed" if labelled pictures left the fact undecided.
        """
        origin = "assumed" if self.undecided else _ORIGINS[self.rank]
        return Fact(origin=origin, detail=self.detail, undecided=self.undecided)


@dataclass
class Facts:
    """What all sources claim, by the fact's path in the card. `get` returns the claim that counts."""

    claims: dict[str, list[Claim]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def copy(self) -> Facts:
        """Return a copy of the claims; claims added to it do not change this object."""
        return Facts({path: list(claims) for path, claims in self.claims.items()})

    def state(self, path: str, value: Any, rank: Rank, detail: str) -> None:
        """Add the claim of one source that the fact `path` has this value. `detail` describes the source."""
        self.claims.setdefault(path, []).append(Claim(value, rank, detail))

    def state_all(self, values: Mapping[str, Any], rank: Rank, detail: str) -> None:
        """Add a claim for each path in `values`, all with the source that `rank` and `detail` give."""
        for path, value in values.items():
            self.state(path, value, rank, detail)

    def known(self, path: str) -> bool:
        """Return whether a source states the fact `path`. An assumption does not count as a source."""
        return any(claim.rank < Rank.ASSUMED for claim in self.claims.get(path, ()))

    def settled(self, path: str) -> bool:
        """Return whether the fact `path` is settled, so that labelled pictures cannot change it.

        It is settled if a flag, metadata or a preset states it, or if the file cannot be run with another
        value.
        """
        return any(claim.rank < Rank.PICTURES for claim in self.claims.get(path, ()))

    def get(self, path: str) -> Claim | None:
        """Return the claim that counts for the fact `path`, or None if there is no claim.

        Warns once if metadata contradicts the file, or a preset contradicts metadata. Raises RefusedModel if
        a flag contradicts a fact that the file forces.
        """
        claims = sorted(self.claims.get(path, ()), key=lambda claim: claim.rank)
        if not claims:
            return None
        winner = claims[0]
        for claim in claims[1:]:
            if same(claim.value, winner.value):
                continue
            if winner.rank is Rank.FORCED and claim.rank is Rank.FLAG:
                raise RefusedModel(
                    f"{claim.detail}: {path} cannot be {words(claim.value)} "
                    f"(allowed: {words(winner.value)}, as {winner.detail})"
                )
            if winner.rank > Rank.FLAG and claim.rank in (Rank.METADATA, Rank.PRESET):
                self._warn(path, winner, claim)
            if winner.rank is Rank.FORCED and claim.rank is Rank.METADATA:
                self._warn(path, winner, claim)
        return winner

    def value(self, path: str, default: Any = None) -> Any:
        """Return the value that counts for the fact `path`, or `default` if there is no claim.

        Raises the errors of `get`.
        """
        claim = self.get(path)
        return default if claim is None else claim.value

    def _warn(self, path: str, winner: Claim, other: Claim) -> None:
        line = (
            f"{path}: {winner.detail} says {words(winner.value)}, {other.detail} says {words(other.value)}; "
            f"the first is taken"
        )
        if line not in self.warnings:
            self.warnings.append(line)


def same(one: Any, other: Any) -> bool:
    """Return whether two values of a fact are equal, numbers within rounding."""
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-3)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def words(value: Any) -> str:
    """Return a fact's value as text, in the form that messages and the table of `weighin add` have."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(words, value))
    return shown(str(value))[:120]


def option_for(path: str) -> str:
    """Return the command line option that sets the fact `path`, or "card.json" if no option does."""
    return OPTIONS.get(path, "card.json")


def in_form_words(text: str) -> str:
    """Replace the command line options in a message by the form fields of `POST /models`."""
    words, *command = _COMMAND.split(text, maxsplit=1)
    for phrase, other in _PHRASES.items():
        words = words.replace(phrase, other)
    return "".join([_OPTION.sub(lambda found: _FIELDS.get(found[0], found[0]), words), *command])


def options_that_state(facts: Collection[str], spec: InputSpec, offset: int) -> str:
    """Return the command line options that state `facts`. Their values are taken from `spec` and `offset`.

    Normalisation and colour order are given together, because the means are in the order of the channels.
    """
    options = []
    if {"input.mean", "input.colour_order"} & set(facts):
        options.append(_pixel_options(spec))
    for path, value in (
        ("input.layout", spec.layout),
        ("input.fitting", spec.fitting),
        ("input.interpolation", spec.interpolation),
        ("outputs.class_offset", offset),
    ):
        if path in facts:
            options.append(f"{option_for(path)} {value}")
    return " ".join(options)


def _pixel_options(spec: InputSpec) -> str:
    low_high = {(0.0, 1.0): "0..255", (0.0, 255.0): "0..1", (127.5, 127.5): "-1..1"}
    pairs = set(zip(spec.mean, spec.std, strict=True))
    name = low_high.get(next(iter(pairs))) if len(pairs) == 1 else None
    if name is not None:
        pixels = f"--range={name}"
    else:
        listed = (",".join(f"{value:.6g}" for value in values) for values in (spec.mean, spec.std))
        pixels = "--range 0..255 --mean {} --std {}".format(*listed)
    return pixels if spec.channels == 1 else f"{pixels} --colour-order {spec.colour_order}"


def warning_of_assumed(paths: Iterable[str], values: Mapping[str, Any]) -> list[str]:
    """Return warnings that name the assumed facts and the command line options that set these facts.

    One line is about facts on which predictions depend, another about facts that only describe the model.
    """
    doubtful = [path for path in paths if decides_predictions(path)]
    plain = [path for path in paths if not decides_predictions(path)]
    lines = []
    if doubtful:
        listed = "; ".join(
            f"{path} {words(values[path])} ({option_for(path)})" if path in values else path
            for path in doubtful
        )
        lines.append(f"assumed, predictions may be wrong: {listed}")
    if plain:
        listed = ", ".join(f"{path} ({option_for(path)})" for path in plain)
        lines.append(f"not stated: {listed}")
    return lines


def numbers(value: object, count: Sequence[int], where: str) -> tuple[float, ...]:
    """Return `value`, a number or a list of numbers, as a tuple of finite numbers.

    `count`: the allowed lengths of the tuple. Raises RefusedModel with a message that begins with `where`.
    """
    items: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    if len(items) not in count or not all(
        isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item)
        for item in items
    ):
        allowed = " or ".join(map(str, count))
        raise RefusedModel(f"{where}: {words(value)} is not valid (allowed: {allowed} numbers)")
    return tuple(float(item) for item in items)
