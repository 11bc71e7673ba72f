"""Sentences about what each block and technique gains on the networks of a zoo; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from models.cost.latency import Measurement
from models.evaluate.significance import LEVEL, JudgedFurther, Pairs
from models.report.results import Row, accuracy, short_name
from models.zoo.card import Card
from models.zoo.statistics import holm
from models.zoo.verdicts import Verdict, verdict

SEARCHED = "fashion-searched"
EQUAL_WIDTH, EQUAL_MACS = "fashion-standard-equal-width", "fashion-standard-equal-macs"
TECHNIQUES = {
    "Pruned": "whole channels removed, then fine-tuned",
    "Quantized": "static int8",
    "Distilled": "the trained network, fine-tuned with the mean of several networks as its teacher",
    "Combined": "distilled, then pruned",
}


def technique(card: Card) -> str | None:
    """Return the technique, a key of TECHNIQUES, that made a model from its parent.

    Return None for a model without a parent, and for one that was made by none of the techniques.
    """
    if card.derived_from is None:
        return None
    if card.precision == "int8":
        return "Quantized"
    if "-pruned-" in card.name:
        return "Combined" if "-distilled" in card.name else "Pruned"
    return "Distilled" if "-distilled" in card.name else None


def kind(card: Card) -> str:
    """Return the category of a model in plots: a technique, `Searched`, `Plain convolution` or `Block`."""
    if card.name == SEARCHED:
        return "Searched"
    return technique(card) or ("Plain convolution" if card.block == "standard" else "Block")


def gains(
    models: Sequence[Row],
    pairs: Pairs | None = None,
    fine_tuned: JudgedFurther | None = None,
    measured: Measurement | None = None,
) -> Iterator[str]:
    """Yield lines of Markdown about the gains of blocks and techniques among models of one label set.

    `pairs` says which differences in accuracy are significant. `fine_tuned` compares fine-tuning with a
    teacher and fine-tuning without one. The rounds of `measured` decide whether a network is called faster or
    slower.
    """
    by_name = {row.card.name: row for row in models}
    if EQUAL_MACS in by_name:
        yield from _blocks(by_name, pairs, measured)
    for title, description in TECHNIQUES.items():
        derived = [row for row in models if technique(row.card) == title and row.card.derived_from in by_name]
        if not derived:
            continue
        yield ""
        yield f"**{title}** ({description}):"
        yield ""
        compared = [(row, by_name[row.card.derived_from or ""]) for row in derived]
        for row, parent in compared:
            yield f"- `{short_name(row.card)}` compared with `{short_name(parent.card)}`: " + _effect(
                row, parent, pairs
            )
        slower = [
            f"`{short_name(row.card)}`"
            for (row, _), (found, _) in zip(compared, _timed(compared, measured), strict=True)
            if found == "slower"
        ]
        if title == "Quantized" and slower:
            yield (
                f"- int8 is significantly slower than float for {', '.join(slower)}: in a network this "
                "small, converting to integers and back between the layers takes more time than the integer "
                "arithmetic saves."
            )
        if title == "Distilled" and fine_tuned is not None:
            yield f"- Gain by the teacher alone: {fine_tuned}."
    if SEARCHED in by_name:
        yield ""
        yield from _searched(by_name[SEARCHED], models, pairs, measured)


def _blocks(by_name: dict[str, Row], pairs: Pairs | None, measured: Measurement | None) -> Iterator[str]:
    """Yield lines that compare each block's network with plain convolutions of about as many MACs."""
    plain = by_name[EQUAL_MACS]
    blocks = [row for row in by_name.values() if kind(row.card) == "Block"]
    yield ""
    yield (
        f"**Plain convolutions at the same cost**: `{short_name(plain.card)}` reaches "
        f"{accuracy(plain):.2%} in {plain.p50_ms:.3f} ms, with {plain.card.file.bytes:,} bytes and "
        f"{plain.card.macs / 1e6:.2f} M MACs."
    )
    if EQUAL_WIDTH in by_name:
        wide = by_name[EQUAL_WIDTH]
        yield (
            f"Plain convolutions as wide as the blocks (`{short_name(wide.card)}`) need "
            f"{wide.card.macs / plain.card.macs:.1f} times as many MACs as `{short_name(plain.card)}`. The "
            "difference between the two: "
            f"{_effect(wide, plain, pairs)}"
        )
    if not blocks:
        return
    macs = [row.card.macs / 1e6 for row in blocks]
    faster = sum(found == "faster" for found, _ in _timed([(row, plain) for row in blocks], measured))
    smaller = sum(row.card.file.bytes < plain.card.file.bytes for row in blocks)
    ahead = sum(accuracy(row) > accuracy(plain) for row in blocks)
    summary = (
        f"{len(blocks)} blocks with {min(macs):.2f} M to {max(macs):.2f} M MACs; faster than plain "
        f"convolutions: {faster or 'none'}; smaller: {smaller or 'none'}; more accurate: {ahead or 'none'}"
    )
    if pairs is not None:
        levels = [pairs.p(row.card.name, plain.card.name) for row in blocks]
        significant = sum(p is not None and p < LEVEL for p in levels)
        summary += f". Significant differences in accuracy: {significant or 'none'}"
    yield ""
    yield f"**Blocks** compared with `{short_name(plain.card)}`: {summary}."
    yield ""
    for row in sorted(blocks, key=accuracy, reverse=True):
        yield f"- `{short_name(row.card)}`: {_effect(row, plain, pairs)}"


def _effect(row: Row, base: Row, pairs: Pairs | None) -> str:
    """Return, in words, how the model of `row` differs from the model of `base`.

    The differences are in points of accuracy, milliseconds, bytes and multiply-accumulates.
    """
    card, other = row.card, base.card
    return (
        f"{_points(row, base, pairs)}, "
        f"{_milliseconds(row, base)} (× {row.p50_ms / base.p50_ms:.2f}), "
        f"{card.file.bytes - other.file.bytes:+,} bytes (× {card.file.bytes / other.file.bytes:.2f}), "
        f"MACs × {card.macs / other.macs:.2f}."
    )


def _points(row: Row, base: Row, pairs: Pairs | None) -> str:
    """Return, in words, the difference between the accuracies of the models of `row` and `base`.

    If one of the two accuracies was not measured, return instead how often the model of `row` agrees with its
    parent. If its card does not state this either, return `accuracy not measured`.
    """
    accuracies = (row.card.accuracy, base.card.accuracy)
    if all(stated is not None and stated.kind == "measured" for stated in accuracies):
        p = None if pairs is None else pairs.p(row.card.name, base.card.name)
        verdict = "" if p is None else f" ({'significant' if p < LEVEL else 'not significant'})"
        return f"{100 * (accuracy(row) - accuracy(base)):+.2f} points{verdict}"
    if row.card.agreement is not None:
        agreement = row.card.agreement
        return (
            f"the same top-1 class for {agreement.value:.1%} of the {agreement.n} images on which the two "
            "were compared"
        )
    return "accuracy not measured"


def _searched(
    row: Row, models: Sequence[Row], pairs: Pairs | None, measured: Measurement | None
) -> Iterator[str]:
    """Yield lines about the design that the search found.

    It is compared with the hand-made designs that are slower and not significantly more accurate.
    """
    by_hand = [
        other
        for other in models
        if other.card.derived_from is None and other is not row and other.card.accuracy is not None
    ]
    ahead, even = [], []
    for other, (found, time) in zip(by_hand, _timed([(row, o) for o in by_hand], measured), strict=True):
        if found != "faster":
            continue
        compared = f"`{short_name(other.card)}`: {_points(row, other, pairs)}, {time}."
        p = None if pairs is None else pairs.p(row.card.name, other.card.name)
        if p is not None and p >= LEVEL:
            even.append(compared)
        elif accuracy(row) > accuracy(other):
            ahead.append(compared)
    yield (
        f"**Searched** (a design found by measuring the latency of candidates and training them briefly): "
        f"`{short_name(row.card)}` reaches {accuracy(row):.2%} in {row.p50_ms:.3f} ms with "
        f"{row.card.file.bytes:,} bytes."
        + (
            ""
            if measured is None
            else " The list has the networks designed by hand that are significantly slower and not "
            "significantly more accurate; × is the ratio of the two times, estimated from all rounds, with "
            "its 95 % interval."
        )
    )
    yield ""
    yield from (f"- more accurate and faster than {compared}" for compared in ahead)
    yield from (f"- faster than {compared}" for compared in even)
    if not ahead and not even:
        yield "No network designed by hand is both less accurate and slower."


def _timed(
    compared: Sequence[tuple[Row, Row]], measured: Measurement | None
) -> Iterator[tuple[Verdict, str]]:
    """Yield for each pair whether the first row is faster than the second, and the difference in words.

    With `measured`, the verdict and the 95 % interval follow models/zoo/verdicts.py. If `measured` is None,
    only the two p50 decide, and there is no interval.
    """
    if measured is None:
        for row, other in compared:
            yield verdict(math.log(row.p50_ms / other.p50_ms), 0.0), _milliseconds(row, other)
        return
    ratios = [measured.ratio(row.card.name, other.card.name) for row, other in compared]
    adjusted = holm([ratio.p for ratio in ratios])
    for (row, other), ratio, p in zip(compared, ratios, adjusted, strict=True):
        times = f"× {math.exp(ratio.mean):.2f}, {math.exp(ratio.low):.2f} to {math.exp(ratio.high):.2f}"
        yield verdict(ratio.mean, p), f"{_milliseconds(row, other)} ({times})"


def _milliseconds(row: Row, base: Row) -> str:
    return f"{row.p50_ms - base.p50_ms:+.3f} ms"
