"""Each decoder gives what the slow implementation gives, on random tensors and in the corner cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from models.zoo.card import Card
from service.inference.detection.decoders import Candidates, decoder_of
from tests.models.zoo.test_detector_cards import CENTRES, PIXELS, SELECTED, SSD, card
from tests.service.inference.detection.slow import slow_candidates

Shapes = dict[str, list[int]]
SMALL_SSD = SSD | {"strides": [64, 150], "min_scale": 0.3}
CASES: dict[str, tuple[Shapes, dict[str, Any], dict[str, Any]]] = {
    "SSD": ({"boxes": [1917, 4], "scores": [1917, 24]}, SSD, {"class_offset": 1}),
    "SSD, softmax": (
        {"boxes": [99, 4], "scores": [99, 24]},
        SMALL_SSD | {"activation": "softmax"},
        {"class_offset": 1},
    ),
    "SSD, one layer": (
        {"boxes": [180, 4], "scores": [180, 23]},
        SSD
        | {
            "strides": [50],
            "reduce_boxes_in_lowest_layer": False,
            "interpolated_scale_aspect_ratio": None,
        },
        {},
    ),
    "centres": (
        {"heatmap": [23, 19, 19], "size": [2, 19, 19], "offset": [2, 19, 19], "landmarks": [10, 19, 19]},
        CENTRES | {"stride": 16},
        {},
    ),
    "centres, background": (
        {"heatmap": [24, 19, 19], "size": [2, 19, 19], "offset": [2, 19, 19]},
        CENTRES | {"stride": 16, "landmarks": 0},
        {"class_offset": 1},
    ),
    "boxes": ({"boxes": [300, 4], "scores": [300, 23]}, PIXELS, {}),
    "boxes, classes first": (
        {"boxes": [300, 4], "scores": [24, 300]},
        PIXELS | {"scores_layout": "classes-boxes", "activation": "sigmoid"},
        {"class_offset": 1},
    ),
    "boxes, no object": (
        {"boxes": [300, 4], "scores": [300, 24]},
        PIXELS | {"no_object": True, "activation": "softmax", "format": "cxcywh", "unit": "fractions"},
        {},
    ),
    "boxes, class ids": (
        {"boxes": [300, 4], "scores": [300], "classes": [300], "count": [1]},
        PIXELS | {"format": "yxyx", "unit": "fractions"},
        {"class_offset": 1},
    ),
    "NonMaxSuppression": ({"boxes": [300, 4], "scores": [23, 300], "selected": [3]}, SELECTED, {}),
    "NonMaxSuppression, softmax": (
        {"boxes": [300, 4], "scores": [24, 300], "selected": [3]},
        SELECTED | {"activation": "softmax"},
        {"class_offset": 1},
    ),
}


def detector(kind: str) -> Card:
    shapes, decoder, outputs = CASES[kind]
    detection = {"suppression": "none"} if decoder["kind"] == "selected-boxes" else {}
    return Card.model_validate(card(shapes | outputs, decoder, detection=detection))


def random_outputs(kind: str, random: Generator) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors of a case; scores of all sizes where an activation is applied, else 0 to 1."""
    shapes, decoder, _ = CASES[kind]
    outputs: dict[str, Any] = {}
    for role, shape in shapes.items():
        match role:
            case "scores" | "heatmap":
                activated = decoder.get(
                    "activation", "sigmoid" if decoder["kind"] == "ssd-anchors" else "none"
                )
                values = random.uniform(0, 1, shape) if activated == "none" else random.normal(-1, 3, shape)
            case "classes":
                values = random.integers(0, 26, shape)  # background and classes that are not there, too
            case "count":
                values = np.array([250.0])
            case "selected":
                limits = [2, CASES[kind][0]["scores"][0], CASES[kind][0]["boxes"][0]]
                outputs[role] = random.integers(0, limits, (500, 3))
                continue
            case _ if decoder.get("unit") == "pixels":
                values = random.uniform(-20, 320, shape)
            case _:
                values = random.normal(0, 1, shape)
        outputs[role] = values.astype(np.float32)
    return outputs


def decoded(found: Candidates) -> list[tuple[float, ...]]:
    return [
        (score, float(class_id), *box)
        for score, class_id, box in zip(found.scores, found.class_ids, found.boxes.tolist(), strict=True)
    ]


def assert_as_slow(
    kind: str, outputs: dict[str, Any], min_score: float, limit: int, classes: list[int] | None = None
) -> int:
    """Compare both implementations; return how many boxes there are."""
    described = detector(kind)
    fast = decoder_of(described).decode(outputs, min_score, limit, classes)
    slow = slow_candidates(described, outputs, min_score, limit, classes)
    expected = [(one.score, one.class_id, *one.box) for one in slow]
    assert len(fast.scores) == len(slow)
    np.testing.assert_allclose(decoded(fast), expected, rtol=2e-6, atol=2e-5)
    if fast.landmarks is not None:
        np.testing.assert_allclose(
            fast.landmarks, np.reshape([one.landmarks for one in slow], fast.landmarks.shape), atol=1e-6
        )
    return len(fast.scores)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("min_score", [0.0, 0.3, 0.9])
def test_random_tensors(kind: str, min_score: float) -> None:
    outputs = random_outputs(kind, np.random.default_rng(1))
    found = assert_as_slow(kind, outputs, min_score, 400)
    assert found > 0 or min_score == 0.9


@pytest.mark.parametrize("kind", CASES)
def test_some_classes(kind: str) -> None:
    outputs = random_outputs(kind, np.random.default_rng(2))
    assert assert_as_slow(kind, outputs, 0.1, 400, [3, 22]) > 0


@pytest.mark.parametrize("kind", CASES)
def test_ten_thousand_candidates(kind: str) -> None:
    outputs = random_outputs(kind, np.random.default_rng(3))
    found = assert_as_slow(kind, outputs, 0.0, 10_000)
    assert found == 10_000 or kind != "SSD"


TIED: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "all equal": lambda scores: np.full_like(scores, 0.75),
    "two values": lambda scores: np.where(scores > 0.6, np.float32(0.75), np.float32(0.7)),
}


@pytest.mark.parametrize(
    "kind", [kind for kind in CASES if "softmax" not in kind and "no object" not in kind]
)
@pytest.mark.parametrize("tied", TIED)
def test_ties_keep_the_order_of_the_outputs(kind: str, tied: str) -> None:
    outputs = random_outputs(kind, np.random.default_rng(4))
    role = "heatmap" if "heatmap" in outputs else "scores"
    outputs[role] = TIED[tied](outputs[role])
    assert assert_as_slow(kind, outputs, 0.1, 150) >= 100


@pytest.mark.parametrize("kind", CASES)
def test_nothing(kind: str) -> None:
    outputs = random_outputs(kind, np.random.default_rng(5))
    role = "heatmap" if "heatmap" in outputs else "scores"
    outputs[role] = np.full_like(outputs[role], -20 if CASES[kind][1].get("activation") else 0)
    if CASES[kind][1]["kind"] == "ssd-anchors":
        outputs[role][:] = -20
        outputs[role][:, : CASES[kind][2].get("class_offset", 0)] = 20
    assert assert_as_slow(kind, outputs, 0.5, 400) == 0


@pytest.mark.parametrize(
    "kind", [kind for kind in CASES if "softmax" not in kind and "no object" not in kind]
)
def test_scores_that_are_not_numbers(kind: str) -> None:
    """They are left out; the others are as without them."""
    outputs = random_outputs(kind, np.random.default_rng(6))
    role = "heatmap" if "heatmap" in outputs else "scores"
    low = outputs | {role: outputs[role].copy()}
    holes = np.random.default_rng(7).uniform(size=outputs[role].shape) < 0.3
    outputs[role][holes], low[role][holes] = np.nan, -30
    decode = decoder_of(detector(kind)).decode
    found, without = decode(outputs, 0.2, 400), decode(low, 0.2, 400)
    assert len(found.scores) > 0
    assert decoded(found) == decoded(without)


def test_score_at_the_threshold() -> None:
    """A score of 0.7 in the network's precision, 0.69999999, is found with `min_score` 0.7."""
    outputs = random_outputs("boxes", np.random.default_rng(0))
    outputs["scores"] = np.full((300, 23), 0.7, np.float32)
    decoder = decoder_of(detector("boxes"))
    assert len(decoder.decode(outputs, 0.7, 10).scores) == 10
    assert len(decoder.decode(outputs, 0.7001, 10).scores) == 0


def test_certain_scores() -> None:
    """A sigmoid that is 1 in every precision is found with `min_score` 1, and no other."""
    outputs = random_outputs("SSD", np.random.default_rng(0))
    outputs["scores"] = np.full((1917, 24), 10, np.float32)
    outputs["scores"][7, 3] = 60
    found = decoder_of(detector("SSD")).decode(outputs, 1.0, 10)
    assert (found.scores.tolist(), found.class_ids.tolist()) == ([1.0], [2])


def test_huge_sizes() -> None:
    """An encoded size beyond the range of float gives an infinite box, without a warning."""
    outputs = random_outputs("SSD", np.random.default_rng(0))
    outputs["boxes"][:, 2:] = 1e5
    boxes = decoder_of(detector("SSD")).decode(outputs, 0.1, 5).boxes
    assert np.isinf(boxes).all()


@pytest.mark.parametrize("size", [708, 709.9, 1e5])
def test_huge_centres(size: float) -> None:
    """The whole plane, not NaN, once a size exceeds the range of float."""
    outputs = random_outputs("centres", np.random.default_rng(0))
    outputs["size"][:] = size
    boxes = decoder_of(detector("centres")).decode(outputs, 0.1, 5).boxes
    assert (boxes[:, :2] < -1e300).all()
    assert (boxes[:, 2:] > 1e300).all()


def test_boxes_of_different_numbers() -> None:
    """No boxes at all, from a graph that returns as many as it finds."""
    shapes: Shapes = {"boxes": [4], "scores": [], "classes": []}
    described = Card.model_validate(card(shapes, PIXELS | {"boxes_first": True}))
    empty = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0, np.float32)}
    found = decoder_of(described).decode(empty | {"classes": np.zeros(0, np.float32)}, 0.5, 100)
    assert found.boxes.shape == (0, 4)


def test_anchors_of_mediapipe() -> None:
    """The first, and the last, as MediaPipe's SsdAnchorsCalculator makes them for 300 x 300 pixels."""
    outputs = {"boxes": np.zeros((1917, 4), np.float32), "scores": np.full((1917, 24), -9, np.float32)}
    outputs["scores"][[0, 1, 2, 1916], 1] = [4, 3, 2, 1]
    boxes = decoder_of(detector("SSD")).decode(outputs, 0.5, 10).boxes / 300
    cell, wide, narrow = 0.5 / 19, 0.2 * 2**0.5, 0.2 / 2**0.5
    expected = [(cell, cell, 0.1, 0.1), (cell, cell, wide, narrow), (cell, cell, narrow, wide)]
    expected.append((0.5, 0.5, 0.95**0.5, 0.95**0.5))
    sizes = np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), axis=1)
    np.testing.assert_allclose(sizes, expected, atol=1e-9)
