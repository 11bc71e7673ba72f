"""Create evaluations from given outcomes, without running a network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from models.zoo.card import Card
from service.evaluation.figures import (
    Bin,
    Calibration,
    ClassifierResult,
    ClassShare,
    Confused,
    Mean,
    Share,
    pack_bits,
)
from service.evaluation.result import (
    ClassCount,
    Data,
    Evaluation,
    LabelSet,
    ModelResult,
    Pair,
    Software,
    data_hash,
    half_of,
)

MOMENT = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
CLASSES = ("cat", "dog")


def pictures(n: int, seed: str = "") -> list[str]:
    """Return the SHA-256 of `n` fictitious files, sorted."""
    return sorted(hashlib.sha256(f"{seed}{i}".encode()).hexdigest() for i in range(n))


def halves(n: int, seed: str = "") -> list[int]:
    """Return the half of each of the pictures."""
    return [half_of(sha256) for sha256 in pictures(n, seed)]


def evaluation(
    right: Mapping[str, Sequence[bool]],
    *,
    cards: Mapping[str, Card] | None = None,
    labels: str = "imagenet-1k",
    of: int = 1000,
    seed: str = "",
    pairs: Sequence[Pair] = (),
    moment: datetime = MOMENT,
) -> Evaluation:
    """Return the evaluation of classifiers on pictures of cats and dogs by turns.

    `right`: for each model, whether it is right on each picture. `cards`: the models; else fictitious ones
    with SHA-256 000....
    """
    n = len(next(iter(right.values())))
    files = pictures(n, seed)
    sha256 = data_hash((file, CLASSES[i % 2]) for i, file in enumerate(files))
    if cards:
        labels, of = (first := next(iter(cards.values()))).labels, first.classes
    return Evaluation(
        id=sha256[:16],
        data=Data(
            name="pets",
            kind="folder",
            task="image-classification",
            sha256=sha256,
            pictures=n,
            n=n,
            half=pack_bits(half == 1 for half in halves(n, seed)),
            classes=tuple(
                ClassCount(name=name, n=len(range(index, n, 2))) for index, name in enumerate(CLASSES)
            ),
        ),
        started_at=moment,
        finished_at=moment,
        label_sets=(LabelSet(labels=labels, classes=2, of=of, n=n, pictures=pack_bits([True] * n)),),
        models=tuple(
            model_result(name, bits, halves(n, seed), (cards or {}).get(name), labels, of, moment)
            for name, bits in right.items()
        ),
        pairs=tuple(pairs),
    )


def model_result(
    name: str,
    right: Sequence[bool],
    halves: Sequence[int],
    card: Card | None,
    labels: str,
    of: int,
    moment: datetime,
) -> ModelResult:
    """Return the result of a classifier that takes cats for dogs and dogs for cats where it is wrong."""
    facts: dict[str, Any] = {
        "sha256": "0" * 64, "bytes": 4_000_000, "precision": "fp32", "height": 224, "width": 224,
    }  # fmt: skip
    if card is not None:
        facts = {
            "sha256": card.file.sha256,
            "bytes": card.file.bytes,
            "precision": card.precision,
            "height": card.input.height,
            "width": card.input.width,
        }
    return ModelResult(
        name=name,
        task="image-classification",
        labels=labels,
        classes=of,
        evaluated_at=moment,
        software=Software(
            onnxruntime="1.32.0", instruction_set=("avx2",), machine="Test CPU", weighin="0.1.0"
        ),
        classification=result(right, halves),
        **facts,
    )


def result(right: Sequence[bool], halves: Sequence[int]) -> ClassifierResult:
    """Return the figures that follow from the outcomes."""
    n, correct = len(right), sum(right)
    per_class = tuple(
        ClassShare(name=name, **Share.of(sum(right[index::2]), len(right[index::2])).model_dump())
        for index, name in enumerate(CLASSES)
    )
    wrong = [each.n - each.correct for each in per_class]
    macro = sum(each.correct / each.n for each in per_class) / 2
    total = Share.of(correct, n)
    return ClassifierResult(
        n=n,
        correct=pack_bits(right),
        top1=total,
        top5=Share.of(n, n),
        macro=Mean(value=macro, low=max(0.0, macro - 0.1), high=min(1.0, macro + 0.1)),
        per_class=per_class,
        confusion=tuple(
            Confused(true=CLASSES[index], predicted=CLASSES[1 - index], count=count)
            for index, count in enumerate(wrong)
            if count
        ),
        calibration=Calibration(
            ece=abs(total.value - 0.5), bins=(Bin(low=0.4, high=0.6, confidence=0.5, accuracy=total),)
        ),
        threshold=None,
        worst=(),
        halves=tuple(_half(right, halves, which) for which in (0, 1)),  # type: ignore[arg-type]
    )


def _half(right: Sequence[bool], halves: Sequence[int], which: int) -> Share | None:
    bits = [bit for bit, half in zip(right, halves, strict=True) if half == which]
    return Share.of(sum(bits), len(bits)) if bits else None
