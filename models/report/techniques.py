"""What each technique bought on the networks of a zoo, in a paragraph each; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.evaluate.significance import JudgedFurther
from models.report.results import Row, accuracy
from models.zoo.card import Card

SEARCHED = "fashion-searched"
TECHNIQUES = {
    "Pruned": "channels taken out whole, then trained on",
    "Quantized": "static int8",
    "Distilled": "the finished network, trained on with the average of several as its teacher",
    "Combined": "taught, then pruned",
}


def technique(card: Card) -> str | None:
    """Which of TECHNIQUES made a model from its parent; None for a model that was made from none."""
    if card.derived_from is None:
        return None
    if card.precision == "int8":
        return "Quantized"
    if "-pruned-" in card.name:
        return "Combined" if "-distilled" in card.name else "Pruned"
    return "Distilled" if "-distilled" in card.name else None


def paragraphs(found: Sequence[Row], further: JudgedFurther | None = None) -> Iterator[str]:
    """Lines of Markdown: a paragraph for each technique that these models, of one label set, show.

    `further`: what the epochs of a distilled network bring without its teacher.
    """
    by_name = {row.card.name: row for row in found}
    for title, what in TECHNIQUES.items():
        derived = [row for row in found if technique(row.card) == title and row.card.derived_from in by_name]
        if not derived:
            continue
        pairs = [(row, by_name[row.card.derived_from or ""]) for row in derived]
        yield ""
        yield f"**{title}** ({what}): {'; '.join(_effect(*pair) for pair in pairs)}."
        if title == "Distilled" and further is not None:
            yield f"What of that is the teacher's: {further}."
        slower = [row.card.name for row, parent in pairs if row.p50_ms > parent.p50_ms]
        if title == "Quantized" and slower:
            yield (
                f"So int8 does not pay in time for {_named(slower)}: in so small a network the steps into "
                f"integers and back between the layers take longer than its few multiplications save."
            )
    if SEARCHED in by_name:
        yield ""
        yield _searched(by_name[SEARCHED], found)


def _effect(row: Row, parent: Row) -> str:
    card, before = row.card, parent.card
    return (
        f"`{card.name}` takes {row.p50_ms / parent.p50_ms:.2f} × the time, "
        f"{card.macs / before.macs:.2f} × the MACs and {card.file.bytes / before.file.bytes:.2f} × the bytes "
        f"of `{before.name}`, {_kept(row, parent)}"
    )


def _kept(row: Row, parent: Row) -> str:
    """What is left of the accuracy, as far as it was measured."""
    both = (row.card.accuracy, parent.card.accuracy)
    if all(stated is not None and stated.kind == "measured" for stated in both):
        return f"accuracy {100 * (accuracy(row) - accuracy(parent)):+.2f} points"
    if row.card.agreement is not None:
        return f"the same top-1 class for {row.card.agreement.value:.1%} of {row.card.agreement.n} images"
    return "its accuracy not measured"


def _searched(row: Row, found: Sequence[Row]) -> str:
    by_hand = [
        other
        for other in found
        if other.card.derived_from is None and other is not row and other.card.accuracy is not None
    ]
    beaten = [other for other in by_hand if accuracy(row) > accuracy(other) and row.p50_ms < other.p50_ms]
    by_points = (
        f"`{other.card.name}` ({100 * (accuracy(row) - accuracy(other)):+.2f} points)" for other in beaten
    )
    verdict = (
        f"more accurate and faster than {', '.join(by_points)}"
        if beaten
        else "in both accuracy and latency it beats none of those made by hand"
    )
    return (
        f"**Searched** (a design found by measuring its latency and training it a little): `{row.card.name}` "
        f"has {accuracy(row):.2%} in {row.p50_ms:.3f} ms, {verdict}."
    )


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
