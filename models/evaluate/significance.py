"""Read the results of `models evaluate` and `models gain` and describe them in Markdown; needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from models.zoo.frozen import Frozen

PAIRS = "zoo-pairs.json"
GAIN = "zoo-gain.json"
"""PAIRS and GAIN are the names of two result files beside docs/zoo.md. Each of them may be missing."""
LEVEL = 0.05
"""Significance level: a p-value below it is called significant."""

Kind = TypeVar("Kind", bound=BaseModel)


class JudgedPair(Frozen):
    """Comparison of the accuracies of two networks.

    `difference` is the accuracy of the network `first` minus that of `second`. `low` and `high` are the ends
    of its 95 % interval. `p` is the p-value with Holm's correction for the number of comparisons.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float = Field(ge=0, le=1)


class JudgedMean(Frozen):
    """Accuracy (0 to 1) of an ensemble, which averages the probabilities of several networks."""

    networks: tuple[str, ...]
    accuracy: float = Field(ge=0, le=1)


class Pairs(Frozen):
    """Comparisons of all pairs of several networks on `n` images, with the SHA-256 of each network's file.

    `averaged` is the ensemble of the networks without a parent. It is None if it was not evaluated.
    """

    n: int = Field(gt=0)
    sha256: dict[str, str]
    pairs: tuple[JudgedPair, ...]
    averaged: JudgedMean | None = None

    def p(self, first: str, second: str) -> float | None:
        """Return the p-value of a pair of networks, or None if the pair was not compared.

        The order of the two networks does not matter.
        """
        return next((pair.p for pair in self.pairs if {pair.first, pair.second} == {first, second}), None)


class JudgedFurther(Frozen):
    """Accuracy of a trained student after fine-tuning for `epochs` epochs with and without the teacher.

    There is one fine-tuning with the teacher (accuracy `distilled`) and one without it (accuracy `alone`),
    both evaluated on the same images. `difference` is `distilled` minus `alone`, with its 95 % interval `low`
    to `high`. `p` is the p-value of McNemar's test (models/zoo/paired.py).
    """

    epochs: int = Field(gt=0)
    distilled: float
    alone: float
    difference: float
    low: float
    high: float
    p: float = Field(ge=0, le=1)

    @property
    def significant(self) -> bool:
        """Whether `p` is below LEVEL."""
        return self.p < LEVEL

    def __str__(self) -> str:
        points = f"{100 * self.difference:+.2f} points ({100 * self.low:+.2f} to {100 * self.high:+.2f}"
        return (
            f"fine-tuning the trained network for {self.epochs} epochs gives {self.distilled:.2%} with the "
            f"teacher and {self.alone:.2%} without it (one training each), {points}; "
            f"McNemar's p {self.p:.2g}): {'significant' if self.significant else 'not significant'}"
        )


class JudgedGain(Frozen):
    """Gain of `student` from the averaged probabilities of `teachers`.

    `teacher` is the accuracy of the averaged probabilities. For each of `seeds` seeds, the student was
    trained twice from random weights for `epochs` epochs: once with these probabilities, and once without
    them. All these students were tested on the same `n` images. `distilled` is the mean accuracy of those
    that were trained with the probabilities, and `alone` that of the others. models/evaluate/gain.py compares
    the two. If the trained student was also fine-tuned with and without the probabilities, `further` compares
    these two trainings.
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
    def significant(self) -> bool:
        """Whether the 95 % interval of the gain is above 0, and the p-value is below LEVEL.

        The interval is over images and seeds together, and the p-value is over seeds alone.
        """
        return self.low > 0 and self.p < LEVEL

    def __str__(self) -> str:
        return (
            f"the teacher gains {100 * self.difference:+.2f} points ({100 * self.low:+.2f} to "
            f"{100 * self.high:+.2f} over images and seeds; p over {self.seeds} seeds {self.p:.2g}): "
            f"{'significant' if self.significant else 'not significant'}"
        )


def read_judgements(page: Path) -> tuple[Pairs | None, JudgedGain | None]:
    """Return the content of the files PAIRS and GAIN beside the page, or None for a missing file.

    Raises ValueError for a damaged file.
    """
    return _read(page.with_name(PAIRS), Pairs), _read(page.with_name(GAIN), JudgedGain)


def _read(path: Path, kind: type[Kind]) -> Kind | None:
    if not path.exists():
        return None
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError) as error:
        raise ValueError(
            f"{path}: not a result of `models evaluate` or `gain`: {str(error).splitlines()[0]}"
        ) from None


def paragraphs(pairs: Pairs | None, gain: JudgedGain | None, sha256: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of Markdown about significance and distillation.

    `sha256` has the SHA-256 of each model's file, by the model's name. Raises ValueError if a model has
    changed since it was compared.
    """
    if pairs is not None:
        changed = sorted(name for name, digest in pairs.sha256.items() if sha256.get(name) != digest)
        if changed:
            raise ValueError(
                f"{', '.join(changed)}: changed since `evaluate`; run: python -m models evaluate"
            )
        yield from _paired(pairs)
    if gain is not None:
        yield ""
        yield (
            f"**Distillation from random weights**: {gain.seeds} trainings of `{gain.student}` with a "
            f"teacher and {gain.seeds} without, {gain.epochs} epochs each. The teacher is the mean of "
            f"the trained networks {', '.join(f'`{name}`' for name in gain.teachers)} ({gain.teacher:.2%}). "
            f"On average, the students reach {gain.distilled:.2%} with the teacher and {gain.alone:.2%} "
            f"without it; {gain}."
        )


def _paired(pairs: Pairs) -> Iterator[str]:
    significant = sum(pair.p < LEVEL for pair in pairs.pairs)
    yield ""
    yield (
        f"**Significance**: {significant} of {len(pairs.pairs)} pairs differ significantly on the same "
        f"{pairs.n} images (McNemar's test, Holm's correction at {LEVEL:.0%}). The table shows by how many "
        f"points the network of the row is more accurate than that of the column. A dot means that the "
        f"difference is not significant. [{PAIRS}]({PAIRS}) has the 95 % intervals of all pairs, without "
        f"Holm's correction. Each network was trained once; other seeds may give other results."
    )
    yield ""
    yield from _matrix(pairs)
    if pairs.averaged is not None:
        yield ""
        yield (
            f"Averaging the probabilities of the {len(pairs.averaged.networks)} networks that were trained "
            f"from random weights (all but the pruned, distilled and int8 ones) gives "
            f"{pairs.averaged.accuracy:.2%} top-1."
        )


def _matrix(pairs: Pairs) -> Iterator[str]:
    """Yield the lines of a table that compares all pairs of networks.

    The rows are numbered and sorted by accuracy, the highest first. The head of a column is the number of a
    row: column 3, for example, compares the network of row 3 with those of rows 1 and 2; its other cells are
    empty.
    """
    lead: dict[str, float] = dict.fromkeys(pairs.sha256, 0.0)
    cells = {}
    for pair in pairs.pairs:
        lead[pair.first] += pair.difference
        lead[pair.second] -= pair.difference
        points = f"{100 * abs(pair.difference):.2f}" if pair.p < LEVEL else "·"
        cells[pair.first, pair.second] = cells[pair.second, pair.first] = points
    names = sorted(lead, key=lambda name: -lead[name])
    yield "| " + " | ".join(["network", *(str(number) for number in range(2, len(names) + 1))]) + " |"
    yield "|" + " --- |" * len(names)
    for row, name in enumerate(names[:-1]):
        values = [cells.get((name, other), "·") if row < column else "" for column, other in enumerate(names)]
        yield f"| {row + 1}. `{name}` | " + " | ".join(values[1:]) + " |"
    yield f"| {len(names)}. `{names[-1]}` | " + " | ".join([""] * (len(names) - 1)) + " |"


def pairs_of(
    n: int,
    sha256: Mapping[str, str],
    compared: Sequence[tuple[str, str, Any]],
    adjusted_p: Sequence[float],
    averaged: JudgedMean | None,
) -> Pairs:
    """Combine comparisons of networks with their Holm-corrected p-values.

    Each comparison is (first network, second network, Paired), on the same `n` images.
    """
    return Pairs(
        n=n,
        averaged=averaged,
        sha256=dict(sha256),
        pairs=tuple(
            JudgedPair(
                first=first, second=second, difference=pair.difference, low=pair.low, high=pair.high, p=p
            )
            for (first, second, pair), p in zip(compared, adjusted_p, strict=True)
        ),
    )
