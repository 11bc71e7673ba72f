"""What a technique bought is told from the cards: once for each model, and nothing that was not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.cost.latency import Latency
from models.evaluate.significance import JudgedFurther
from models.report.results import Row
from models.report.techniques import SEARCHED, paragraphs, technique
from models.zoo.card import Accuracy, Agreement, Card, Interval, read_card


@pytest.fixture
def tiny(tiny_models_dir: Path) -> Card:
    return read_card(tiny_models_dir / "tiny")


def row(tiny: Card, name: str, p50_ms: float, accuracy: float | None, **changes: Any) -> Row:
    measured = (
        None if accuracy is None else Accuracy(value=accuracy, kind="measured", dataset="d", n=9, how="h")
    )
    card = tiny.model_copy(update={"name": name, "accuracy": measured, **changes})
    return Row(card, Latency(p50_ms, p50_ms, p50_ms))


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("a", {}, None),
        ("a-int8", {"derived_from": "a", "precision": "int8"}, "Quantized"),
        ("a-pruned-50-int8", {"derived_from": "a-pruned-50", "precision": "int8"}, "Quantized"),
        ("a-pruned-50", {"derived_from": "a"}, "Pruned"),
        ("a-distilled", {"derived_from": "a"}, "Distilled"),
        ("a-distilled-pruned-50", {"derived_from": "a-distilled"}, "Combined"),
    ],
)
def test_each_model_is_told_of_once(
    tiny: Card, name: str, changes: dict[str, Any], expected: str | None
) -> None:
    assert technique(tiny.model_copy(update={"name": name, **changes})) == expected


def test_what_was_bought_is_a_share_of_the_parent(tiny: Card) -> None:
    pruned = row(tiny, "a-pruned-50", 0.5, 0.925, derived_from="a", macs=tiny.macs // 4)
    text = "\n".join(paragraphs([row(tiny, "a", 2.0, 0.93), pruned]))
    assert text == (
        "\n**Pruned** (channels taken out whole, then trained on): `a-pruned-50` takes 0.25 × the time, "
        "0.25 × the MACs and 1.00 × the bytes of `a`, accuracy -0.50 points."
    )


@pytest.mark.parametrize(("p", "verdict"), [(0.01, "told apart"), (0.4, "not told apart")])
def test_a_taught_network_is_told_of_beside_one_trained_on_alone(tiny: Card, p: float, verdict: str) -> None:
    taught = [row(tiny, "a", 2.0, 0.942), row(tiny, "a-distilled", 2.0, 0.944, derived_from="a")]
    further = JudgedFurther(
        epochs=8, distilled=0.944, alone=0.943, difference=0.001, low=-0.001, high=0.003, p=p
    )
    text = "\n".join(paragraphs(taught, further))
    assert "accuracy +0.20 points" in text
    assert text.endswith(
        "trained on from the finished network for 8 epochs, one training each: 94.40% with the teacher and "
        f"94.30% without, +0.10 points (-0.10 to +0.30; McNemar's p {p}): {verdict}."
    )


def test_int8_that_is_slower_is_said_to_be_and_why(tiny: Card) -> None:
    interval = Interval(low=0.9, high=0.99, confidence=0.95, method="Wilson")
    agreement = Agreement(parent="a", value=0.97, n=100, interval=interval, how="h")
    int8 = row(tiny, "a-int8", 3.0, None, derived_from="a", precision="int8", agreement=agreement)
    text = "\n".join(paragraphs([row(tiny, "a", 2.0, None), int8]))
    assert "the same top-1 class for 97.0% of 100 images" in text
    assert "points" not in text
    assert "int8 does not pay in time for `a-int8`: in so small a network" in text
    faster = "\n".join(paragraphs([row(tiny, "a", 4.0, None), int8]))
    assert "does not pay" not in faster


def test_the_search_is_held_against_what_was_made_by_hand(tiny: Card) -> None:
    searched = row(tiny, SEARCHED, 1.0, 0.93)
    slow, good = row(tiny, "slow", 2.0, 0.92), row(tiny, "good", 2.0, 0.94)
    pruned = row(tiny, "good-pruned-50", 3.0, 0.9, derived_from="good")
    assert "in 1.000 ms, more accurate and faster than `slow` (+1.00 points)." in "\n".join(
        paragraphs([searched, slow, good, pruned])
    )
    assert "it beats none of those made by hand" in "\n".join(paragraphs([searched, good]))


def test_a_zoo_that_is_trained_in_part_is_told_of_as_far_as_it_goes(tiny: Card) -> None:
    orphan = row(tiny, "a-distilled", 1.0, 0.93, derived_from="a")
    assert list(paragraphs([orphan])) == []
