"""The chart of a front: positions, ticks, and labels that keep apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from service.bench.report.chart import BOTTOM, LEFT, RIGHT, TOP, Chart, Line, Rect, draw, shared_prefix
from service.bench.report.document import AccuracyFigure, Front, FrontModel


def model(
    name: str, ms: float, accuracy: float | None, size: int = 4_000_000, *, on: bool = True
) -> FrontModel:
    figure = None
    if accuracy is not None:
        low, high = max(0.0, accuracy - 0.005), min(1.0, accuracy + 0.005)
        figure = AccuracyFigure(value=accuracy, low=low, high=high, kind="measured", how="test")
    return FrontModel(
        entry=name,
        accuracy=figure,
        p50_ms=ms,
        p50_low_ms=0.98 * ms,
        p50_high_ms=1.02 * ms,
        bytes=size,
        on_front=on,
    )


def chart(*models: FrontModel) -> Chart:
    drawn = draw(Front(task="image-classification", labels="test", models=models))
    assert drawn is not None
    return drawn


def crowd(seed: int, count: int) -> list[FrontModel]:
    """Return models with long names near each other, as variants of one network are."""
    random = np.random.default_rng(seed)
    words = ("inverted", "residual", "pruned", "distilled", "int8", "se")
    return [
        model(
            f"net-{'-'.join(random.choice(words, random.integers(1, 5)))}-{i}",
            float(np.exp(random.normal(0, 0.6))),
            float(np.clip(random.normal(0.94, 0.005), 0, 1)),
            int(random.integers(1e5, 6e6)),
            on=bool(random.random() < 0.5),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_labels_overlap_nothing(seed: int) -> None:
    drawn = chart(*crowd(seed, 20))
    labels = [point.label for point in drawn.points if point.label is not None]
    assert len(labels) >= 17
    for one, other in combinations(labels, 2):
        assert not one.rect.overlaps(other.rect), (one.text, other.text)
    for label in labels:
        assert label.rect.left >= LEFT
        assert label.rect.right <= RIGHT
        assert label.rect.top >= TOP
        assert label.rect.bottom <= BOTTOM
        for point in drawn.points:
            r = point.radius
            assert not label.rect.overlaps(Rect(point.x - r, point.y - r, point.x + r, point.y + r))
        for other in labels:
            assert other.leader is None or other is label or not label.rect.crosses(other.leader)


@pytest.mark.slow
def test_models_without_room_are_named() -> None:
    drawn = chart(*(model(f"a-very-long-name-of-a-network-{i}", 1 + i / 1000, 0.9) for i in range(60)))
    assert set(drawn.unlabelled) == {point.model.entry for point in drawn.points if point.label is None}
    assert 0 < len(drawn.unlabelled) < 60


def test_positions() -> None:
    slow, quick = chart(model("slow", 10, 0.9), model("quick", 1, 0.8)).points
    assert LEFT < quick.x < slow.x < RIGHT
    assert TOP < slow.y < quick.y < BOTTOM
    drawn = chart(model("a", 1, 0.8), model("b", 10, 0.9), model("c", 100, 0.85))
    a, b, c = (point.x for point in drawn.points)
    assert b - a == pytest.approx(c - b)
    ticks = {tick.text: tick.at for tick in drawn.across}
    assert ticks["10"] == pytest.approx(b)
    shares = {tick.text: tick.at for tick in drawn.up}
    assert shares["90%"] == pytest.approx(drawn.points[1].y)


@pytest.mark.parametrize(
    "models",
    [
        [model("one", 1, 0.5)],
        [model("one", 1, 0.5), model("same", 1, 0.5)],
        [model("perfect", 0.001, 1.0), model("useless", 100_000, 0.0)],
        [model("quick", 0.0, 0.5), model("slow", 3.0, 0.7)],
        [model("x" * 128, 5, 0.7, 1), model("y", 5.001, 0.70001, 10**12)],
    ],
)
def test_extreme_fronts(models: list[FrontModel]) -> None:
    drawn = chart(*models)
    assert len(drawn.points) == len(models)
    assert 3 <= len(drawn.across) <= 12
    assert 2 <= len(drawn.up) <= 12
    for point in drawn.points:
        assert LEFT <= point.x <= RIGHT
        assert TOP <= point.y <= BOTTOM


def test_unknown_accuracy_is_not_drawn() -> None:
    drawn = chart(model("known", 1, 0.5), model("unknown", 1, None))
    assert [point.model.entry for point in drawn.points] == ["known"]
    assert drawn.missing == ("unknown",)
    front = Front(task="object-detection", labels="test", models=(model("unknown", 1, None),))
    assert draw(front) is None


def test_larger_files_have_larger_circles() -> None:
    small, middle, large = chart(
        model("a", 1, 0.5, 1_000_000), model("b", 2, 0.5, 4_000_000), model("c", 3, 0.5, 16_000_000)
    ).points
    assert large.radius == pytest.approx(2 * middle.radius)
    assert small.radius <= middle.radius


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["fashion-ghost", "fashion-fire"], "fashion-"),
        (["lite0", "lite1"], ""),
        (["a-b", "a-b-c"], "a-"),
        (["a-b"], ""),
        (["a", "b"], ""),
    ],
)
def test_shared_prefix(names: list[str], prefix: str) -> None:
    assert shared_prefix(names) == prefix


def test_lines_through_rectangles() -> None:
    rect = Rect(0, 0, 10, 10)
    assert rect.crosses(Line(-5, 5, 15, 5))
    assert rect.crosses(Line(-5, -5, 15, 15))
    assert rect.crosses(Line(5, 5, 6, 6))
    assert not rect.crosses(Line(-5, 11, 15, 11))
    assert not rect.crosses(Line(-5, 0, 0, -5))
    assert not rect.crosses(Line(11, -5, 11, 15))
