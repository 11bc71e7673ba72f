"""Marks of the models' chart: positions along an axis, and its ticks."""

from __future__ import annotations

import itertools

import pytest

from service.latency.histogram import EMPTY_SUMMARY, Distribution
from service.web.marks import Axis, marks, stacked
from service.web.table import PARTS


def test_linear_axis_begins_at_zero() -> None:
    axis = Axis.over([2.0, 8.0])
    assert not axis.log
    assert (axis.x(0), axis.x(4)) == (0, 50)
    assert [tick.text for tick in axis.ticks()] == ["0", "2", "4", "6", "8"]


def test_axis_of_very_different_latencies_is_logarithmic() -> None:
    axis = Axis.over([0.2, 20.0])
    assert axis.log
    assert axis.x(2.0) == pytest.approx(50, abs=0.001), "the geometric middle"
    assert [tick.text for tick in axis.ticks()] == ["0.2", "1", "2", "5", "20"]
    assert not Axis.over([0.2, 20.0], stacked=True).log, "lengths of stacked bars add up"


@pytest.mark.parametrize(
    "values",
    [[0.0007, 0.0009], [3.0], [1e-3, 5e4], [999.0, 1001.0], [2.263, 222.7], [1.0, 12.0], [0.3, 9.99]],
)
def test_ticks_are_few_and_cover_the_values(values: list[float]) -> None:
    ticks = Axis.over(values).ticks()
    assert 3 <= len(ticks) <= 6
    assert (ticks[0].x, ticks[-1].x) == (0, 100)
    assert float(ticks[0].text) <= min(values)
    assert max(values) <= float(ticks[-1].text) <= 2.5 * max(values)
    gaps = [after.x - before.x for before, after in itertools.pairwise(ticks)]
    assert min(gaps) >= 10, "labels have room"


def test_axis_without_values() -> None:
    assert Axis.over([]) == Axis(0.0, 1.0, log=False)


def test_marks_of_withheld_percentiles_are_absent() -> None:
    axis = Axis(0.0, 10.0, log=False)
    shown = marks(axis, Distribution.of([5_000_000] * 64).summary())
    assert shown is not None
    assert (shown.p50, shown.p90, shown.p99) == (50.0, 50.0, None)
    assert marks(axis, EMPTY_SUMMARY) is None


def test_stacked_bars_follow_each_other() -> None:
    parts = stacked(Axis(0.0, 10.0, log=False), {"inference": 4.0, "decode": 1.0}, PARTS)
    assert [(part.stage, part.x, part.width) for part in parts] == [
        ("decode", 0.0, 10.0),
        ("inference", 10.0, 40.0),
    ]
