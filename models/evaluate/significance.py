"""Significance of differences between networks, as `evaluate` and `gain` found it, in words; no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PAIRS = "zoo-pairs.json"
GAIN = "zoo-gain.json"
"""Beside docs/zoo.md, where they have been written."""
LEVEL = 0.05

Kind = TypeVar("Kind", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JudgedPair(_Frozen):
    """Two networks on the same images: `difference` in accuracy, first less second; `p` after Holm."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float = Field(ge=0, le=1)


class JudgedMean(_Frozen):
    """How accurate the mean of the probabilities of some networks is."""

    networks: tuple[str, ...]
    accuracy: float = Field(ge=0, le=1)


class Pairs(_Frozen):
    """All pairs of some networks on `n` images, and the SHA-256 of the files that were judged.

    `averaged`: those of them that were made from no other, where that was asked for.
    """

    n: int = Field(gt=0)
    sha256: dict[str, str]
    pairs: tuple[JudgedPair, ...]
    averaged: JudgedMean | None = None

    def p(self, first: str, second: str) -> float | None:
        """Return the p-value of two networks in either order; None for a pair that was not judged."""
        return next((pair.p for pair in self.pairs if {pair.first, pair.second} == {first, second}), None)


class JudgedFurther(_Frozen):
    """The finished student trained on for `epochs` with the teacher and without, judged on the same images.

    One training each; `p` of McNemar's test (models/zoo/paired.py).
    """

    epochs: int = Field(gt=0)
    distilled: float
    alone: float
    difference: float
    low: float
    high: float
    p: float = Field(ge=0, le=1)

    @property
    def real(self) -> bool:
        """Whether the difference is significant."""
        return self.p < LEVEL

    def __str__(self) -> str:
        points = f"{100 * self.difference:+.2f} points ({100 * self.low:+.2f} to {100 * self.high:+.2f}"
        return (
            f"{self.epochs} epochs of fine-tuning the trained network, one training each: "
            f"{self.distilled:.2%} with the teacher and {self.alone:.2%} without, {points}; "
            f"McNemar's p {self.p:.2g}): {'significant' if self.real else 'not significant'}"
        )


class JudgedGain(_Frozen):
    """What the mean of `teachers`, itself right in the share `teacher` of the images, brought `student`.

    Over `seeds` pairs of trainings of `epochs` from random weights, and `n` images
    (models/zoo/paired.py).
    """

    student: str
    teachers: tuple[str, ...]
    teacher: float
    epochs: int = Field(gt=0)
    seeds: int = Field(gt=1)
    n: int = Field(gt=0)
    distilled: float
    alone: float
    difference: float
    low: float
    high: float
    p: float = Field(ge=0, le=1)
    further: JudgedFurther | None = None

    @property
    def real(self) -> bool:
        """Whether the gain is significant both over images and seeds and over seeds alone."""
        return self.low > 0 and self.p < LEVEL

    def __str__(self) -> str:
        return (
            f"the teacher gains {100 * self.difference:+.2f} points ({100 * self.low:+.2f} to "
            f"{100 * self.high:+.2f} over images and seeds; p over {self.seeds} seeds {self.p:.2g}): "
            f"{'significant' if self.real else 'not significant'}"
        )


def judged_beside(page: Path) -> tuple[Pairs | None, JudgedGain | None]:
    """What was judged, as the files beside the page have it; None for each that is not there.

    Raises ValueError for a damaged file.
    """
    return _read(page.with_name(PAIRS), Pairs), _read(page.with_name(GAIN), JudgedGain)


def _read(path: Path, kind: type[Kind]) -> Kind | None:
    if not path.exists():
        return None
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError) as error:
        raise ValueError(f"{path} is no judgement of networks: {str(error).splitlines()[0]}") from None


def paragraphs(pairs: Pairs | None, gain: JudgedGain | None, sha256: Mapping[str, str]) -> Iterator[str]:
    """Lines of Markdown. Raises ValueError where a model, by its `sha256`, is not the one that was judged."""
    if pairs is not None:
        changed = sorted(name for name, digest in pairs.sha256.items() if sha256.get(name) != digest)
        if changed:
            raise ValueError(
                f"not judged in pairs as they are now: {', '.join(changed)}; run: python -m models evaluate"
            )
        yield from _paired(pairs)
    if gain is not None:
        yield ""
        yield (
            f"**Distillation from random weights**: {gain.seeds} trainings of `{gain.student}` with a "
            f"teacher and {gain.seeds} without, {gain.epochs} epochs each. The teacher is the mean of "
            f"{', '.join(f'`{name}`' for name in gain.teachers)} ({gain.teacher:.2%}). The students reach "
            f"{gain.distilled:.2%} with it and {gain.alone:.2%} without it on average; {gain}."
        )


def _paired(pairs: Pairs) -> Iterator[str]:
    apart = sum(pair.p < LEVEL for pair in pairs.pairs)
    yield ""
    yield (
        f"**Significance**: {apart} of {len(pairs.pairs)} pairs differ significantly on the same {pairs.n} "
        f"images (McNemar's test, Holm's correction at {LEVEL:.0%}). The table shows by how many points the "
        f"row's network is ahead of the column's, or a dot if the difference is not significant. "
        f"[{PAIRS}]({PAIRS}) has all 95 % intervals, uncorrected. Each network was trained once; other seeds "
        f"may give other results."
    )
    yield ""
    yield from _matrix(pairs)
    if pairs.averaged is not None:
        yield ""
        yield (
            f"Averaging the probabilities of the {len(pairs.averaged.networks)} independently trained "
            f"networks gives {pairs.averaged.accuracy:.2%} top-1."
        )


def _matrix(pairs: Pairs) -> Iterator[str]:
    """A row for each network, the most accurate first; columns are numbered in the same order."""
    ahead: dict[str, float] = dict.fromkeys(pairs.sha256, 0.0)
    cells = {}
    for pair in pairs.pairs:
        ahead[pair.first] += pair.difference
        ahead[pair.second] -= pair.difference
        points = f"{100 * abs(pair.difference):.2f}" if pair.p < LEVEL else "·"
        cells[pair.first, pair.second] = cells[pair.second, pair.first] = points
    names = sorted(ahead, key=lambda name: -ahead[name])
    yield "| " + " | ".join(["network", *(str(number) for number in range(2, len(names) + 1))]) + " |"
    yield "|" + " --- |" * len(names)
    for row, name in enumerate(names[:-1]):
        found = [cells.get((name, other), "·") if row < column else "" for column, other in enumerate(names)]
        yield f"| {row + 1}. `{name}` | " + " | ".join(found[1:]) + " |"
    yield f"| {len(names)}. `{names[-1]}` | " + " | ".join([""] * (len(names) - 1)) + " |"


def pairs_of(
    n: int,
    sha256: Mapping[str, str],
    found: Sequence[tuple[str, str, Any]],
    p: Sequence[float],
    averaged: JudgedMean | None,
) -> Pairs:
    """What `models.zoo.paired.compare` found of pairs, with the `p` that Holm's correction left."""
    return Pairs(
        n=n,
        averaged=averaged,
        sha256=dict(sha256),
        pairs=tuple(
            JudgedPair(
                first=first, second=second, difference=pair.difference, low=pair.low, high=pair.high, p=each
            )
            for (first, second, pair), each in zip(found, p, strict=True)
        ),
    )
