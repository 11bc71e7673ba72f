"""Gains of blocks and techniques, from cards and measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.cost.latency import Latency, Measurement
from models.evaluate.significance import JudgedFurther, JudgedPair, Pairs
from models.report.results import Row
from models.report.techniques import EQUAL_MACS, EQUAL_WIDTH, SEARCHED, gains, kind, technique
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
def test_each_model_has_one_technique(
    tiny: Card, name: str, changes: dict[str, Any], expected: str | None
) -> None:
    assert technique(tiny.model_copy(update={"name": name, **changes})) == expected


def test_a_gain_is_relative_to_the_parent(tiny: Card) -> None:
    pruned = row(tiny, "a-pruned-50", 0.5, 0.925, derived_from="a", macs=tiny.macs // 4)
    text = "\n".join(gains([row(tiny, "a", 2.0, 0.93), pruned]))
    assert text == (
        "\n**Pruned** (whole channels removed, then fine-tuned):\n\n- `a-pruned-50` compared with `a`: "
        "-0.50 points, -1.500 ms (× 0.25), +0 bytes (× 1.00), MACs × 0.25."
    )


def test_blocks_are_compared_with_plain_convolutions(tiny: Card) -> None:
    plain = row(tiny, EQUAL_MACS, 2.0, 0.93, block="standard", macs=4_000_000)
    wide = row(tiny, EQUAL_WIDTH, 8.0, 0.95, block="standard", macs=32_000_000)
    ghost = row(tiny, "fashion-ghost", 3.0, 0.94, block="ghost", macs=4_400_000)
    fire = row(tiny, "fashion-fire", 1.0, 0.92, block="fire", macs=3_600_000)
    judged = [("fashion-ghost", 0.2), ("fashion-fire", 0.01), (EQUAL_WIDTH, 0.001)]
    pairs = Pairs(
        n=9,
        sha256={},
        pairs=tuple(
            JudgedPair(first=EQUAL_MACS, second=name, difference=0, low=0, high=0, p=p) for name, p in judged
        ),
    )
    text = "\n".join(gains([plain, wide, ghost, fire], pairs))
    assert "`standard-equal-macs` reaches 93.00% in 2.000 ms" in text
    assert "(`standard-equal-width`) need 8.0 times as many MACs as `standard-equal-macs`. " in text
    assert " The difference between the two: +2.00 points (significant)" in text
    assert "2 blocks with 3.60 M to 4.40 M MACs; faster than plain convolutions: 1; smaller: none;" in text
    assert "; more accurate: 1. Significant differences in accuracy: 1." in text
    assert "- `ghost`: +1.00 points (not significant), +1.000 ms (× 1.50)" in text
    assert "- `fire`: -1.00 points (significant), -1.000 ms (× 0.50)" in text
    assert "significant" not in "\n".join(gains([plain, wide, ghost, fire]))
    kinds = [kind(model.card) for model in (plain, ghost, row(tiny, SEARCHED, 1.0, 0.9))]
    assert kinds == ["Plain convolution", "Block", "Searched"]


@pytest.mark.parametrize(("p", "verdict"), [(0.01, "significant"), (0.4, "not significant")])
def test_distillation_is_compared_with_fine_tuning_alone(tiny: Card, p: float, verdict: str) -> None:
    taught = [row(tiny, "a", 2.0, 0.942), row(tiny, "a-distilled", 2.0, 0.944, derived_from="a")]
    fine_tuned = JudgedFurther(
        epochs=8, distilled=0.944, alone=0.943, difference=0.001, low=-0.001, high=0.003, p=p
    )
    text = "\n".join(gains(taught, fine_tuned=fine_tuned))
    assert "`a`: +0.20 points" in text
    assert text.endswith(
        "fine-tuning the trained network for 8 epochs gives 94.40% with the teacher and "
        f"94.30% without it (one training each), +0.10 points (-0.10 to +0.30; McNemar's p {p}): {verdict}."
    )


def test_slower_int8_is_reported_with_the_reason(tiny: Card) -> None:
    interval = Interval(low=0.9, high=0.99, confidence=0.95, method="Wilson")
    agreement = Agreement(parent="a", value=0.97, n=100, interval=interval, how="h")
    int8 = row(tiny, "a-int8", 3.0, None, derived_from="a", precision="int8", agreement=agreement)
    text = "\n".join(gains([row(tiny, "a", 2.0, None), int8]))
    assert "the same top-1 class for 97.0% of the 100 images on which the two were compared" in text
    assert "points" not in text
    assert "int8 is significantly slower than float for `a-int8`: in a network this small" in text
    faster = "\n".join(gains([row(tiny, "a", 4.0, None), int8]))
    assert "is slower" not in faster


def test_search_is_compared_with_designs_by_hand(tiny: Card) -> None:
    searched = row(tiny, SEARCHED, 1.0, 0.93)
    slow, good = row(tiny, "slow", 2.0, 0.92), row(tiny, "good", 2.0, 0.94)
    pruned = row(tiny, "good-pruned-50", 3.0, 0.9, derived_from="good")
    assert "\n- more accurate and faster than `slow`: +1.00 points, -1.000 ms." in "\n".join(
        gains([searched, slow, good, pruned])
    )
    assert "in 1.000 ms" in "\n".join(gains([searched, slow, good, pruned]))
    assert "No network designed by hand is both less accurate and slower." in "\n".join(
        gains([searched, good])
    )


def test_search_verdicts_with_intervals(tiny: Card) -> None:
    rows = [row(tiny, name, 2.0, value) for name, value in (("even", 0.92), ("worse", 0.9), ("near", 0.9))]
    pairs = Pairs(
        n=9,
        sha256={},
        pairs=tuple(
            JudgedPair(first=SEARCHED, second=name, difference=0.01, low=0, high=0.02, p=p)
            for name, p in (("even", 0.3), ("worse", 0.01), ("near", 0.01))
        ),
    )
    times = {SEARCHED: 1e6, "even": 2e6, "worse": 2e6, "near": 1.001e6}
    measured = Measurement(
        machine="m",
        runtime="r",
        rounds=20,
        runs=1,
        latency={},
        models={},
        control_ratio=1.0,
        medians={name: {(at // 4, at % 4): time for at in range(20)} for name, time in times.items()},
    )
    text = "\n".join(gains([row(tiny, SEARCHED, 1.0, 0.93), *rows], pairs, measured=measured))
    assert text.endswith(
        "- more accurate and faster than `worse`: +3.00 points (significant), "
        "-1.000 ms (× 0.50, 0.50 to 0.50).\n"
        "- faster than `even`: +1.00 points (not significant), -1.000 ms (× 0.50, 0.50 to 0.50)."
    )


def test_a_model_without_its_parent_has_no_gain(tiny: Card) -> None:
    orphan = row(tiny, "a-distilled", 1.0, 0.93, derived_from="a")
    assert list(gains([orphan])) == []
