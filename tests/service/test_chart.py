"""The line chart: where points lie, where lines break, what the axes say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.web.chart import SIDE, line_chart

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_points_lie_where_their_time_and_value_say() -> None:
    times = [BEGIN, BEGIN + HOUR, BEGIN + 2 * HOUR]
    chart = line_chart(times, {"p50": [0.0, 2.0, 4.0]}, BEGIN, BEGIN + 2 * HOUR)
    assert chart is not None
    assert chart.lines[0].pieces == (f"0,{SIDE} {SIDE // 2},{SIDE // 2} {SIDE},0",)
    assert chart.y_labels == ("4", "3", "2", "1", "0")
    assert chart.x_labels == ("12:00", "12:30", "13:00", "13:30", "14:00")
    assert chart.rows == (0, 250, 500, 750, 1000)
    assert chart.columns == (0, 250, 500, 750, 1000)


def test_a_line_breaks_where_values_are_missing_and_a_lone_value_is_a_dot() -> None:
    times = [BEGIN + HOUR * index for index in range(6)]
    chart = line_chart(times, {"p95": [1.0, None, None, 1.0, 1.0, None]}, BEGIN, BEGIN + 5 * HOUR)
    assert chart is not None
    assert chart.lines[0].pieces == ("0,0 0,0", "600,0 800,0")


def test_a_series_without_values_keeps_its_place_in_the_legend() -> None:
    chart = line_chart([BEGIN], {"p50": [1.0], "p95": [None]}, BEGIN, BEGIN + HOUR)
    assert chart is not None
    assert [(line.name, len(line.pieces)) for line in chart.lines] == [("p50", 1), ("p95", 0)]


@pytest.mark.parametrize("values", [[], [None, None]])
def test_nothing_to_draw(values: list[float | None]) -> None:
    assert line_chart([BEGIN] * len(values), {"p50": values}, BEGIN, BEGIN + HOUR) is None


@pytest.mark.parametrize(
    ("largest", "labels"),
    [
        (0.0, ("1", "0")),
        (0.03, ("0.03", "0.02", "0.01", "0")),
        (1.9, ("2", "1.5", "1", "0.5", "0")),
        (9.7, ("10", "7.5", "5", "2.5", "0")),
        (67108.8, ("80000", "60000", "40000", "20000", "0")),
    ],
)
def test_the_axis_has_round_numbers(largest: float, labels: tuple[str, ...]) -> None:
    chart = line_chart([BEGIN], {"p50": [largest]}, BEGIN, BEGIN + HOUR)
    assert chart is not None
    assert chart.y_labels == labels


def test_long_windows_are_labelled_with_dates() -> None:
    chart = line_chart([BEGIN], {"p50": [1.0]}, BEGIN, BEGIN + timedelta(days=28))
    assert chart is not None
    assert chart.x_labels == ("Mar 01", "Mar 08", "Mar 15", "Mar 22", "Mar 29")


@given(st.lists(st.none() | st.floats(0, 1e5), min_size=1, max_size=50), st.integers(-100, 100))
def test_every_point_stays_inside(values: list[float | None], shift: int) -> None:
    """Also points of buckets that begin before the window or end after it."""
    times = [BEGIN + timedelta(minutes=index + shift) for index in range(len(values))]
    chart = line_chart(times, {"p50": values}, BEGIN, BEGIN + HOUR)
    if chart is None:
        assert all(value is None for value in values)
        return
    for piece in chart.lines[0].pieces:
        for point in piece.split():
            x, y = map(int, point.split(","))
            assert 0 <= x <= SIDE
            assert 0 <= y <= SIDE
    assert len(chart.y_labels) <= 6
