"""The sparkline stays within its size, splits at missing values and shows a lone value."""

from __future__ import annotations

from service.web.table import HEIGHT, WIDTH, sparkline


def points(piece: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in piece.split())]


def test_position_of_points() -> None:
    (piece,) = sparkline([1, 4, 2])
    assert points(piece) == [(0, HEIGHT * 0.75), (WIDTH / 2, 0), (WIDTH, HEIGHT / 2)]


def test_missing_value_splits_and_lone_value_is_a_dot() -> None:
    pieces = sparkline([None, 3, None, 1.5, 3])
    assert [len(points(piece)) for piece in pieces] == [2, 2]
    lone = points(pieces[0])
    assert lone[0] == lone[1] == (WIDTH / 4, 0)


def test_no_values_and_zeros() -> None:
    assert sparkline([]) == sparkline([None, None]) == ()
    assert points(sparkline([0.0])[0]) == [(0, HEIGHT)] * 2
