"""Detections of several detectors are matched by their boxes."""

from __future__ import annotations

import pytest

from service.inference.detection.matching import Seen, match_objects


def at(left: float, score: float = 0.5, label: str = "thing", side: float = 10) -> Seen:
    return Seen(label, score, (left, 0, left + side, side))


def test_same_places_and_others() -> None:
    one = [at(0, 0.9), at(100, 0.4)]
    other = [at(50, 0.8), at(1, 0.7)]
    objects = match_objects([one, other])
    assert [found.found_by for found in objects] == [{0: 0, 1: 1}, {1: 0}, {0: 1}]
    assert [found.first for found in objects] == [0, 1, 0]
    assert objects[0].iou == pytest.approx(90 / 110)
    assert objects[1].iou is None


def test_half_an_overlap_is_enough() -> None:
    """Boxes 9 wide, shifted by a third: 6 of 12."""
    (found,) = match_objects([[at(0, side=9)], [at(3, side=9)]])
    assert found.iou == 0.5
    assert len(match_objects([[at(0, side=9)], [at(3.1, side=9)]])) == 2


def test_each_detector_once_in_an_object() -> None:
    """Two boxes of one detector are two objects, however much they overlap."""
    objects = match_objects([[at(0, 0.9), at(1, 0.8)], [at(1, 0.7)]])
    assert [found.found_by for found in objects] == [{0: 0}, {0: 1, 1: 0}]


def test_same_label_comes_before_overlap() -> None:
    objects = match_objects([[at(0, 0.9, "Dog"), at(2, 0.8, "Cat")], [at(0, 0.7, "cat")]])
    assert [found.found_by for found in objects] == [{0: 0}, {0: 1, 1: 0}]


def test_other_labels_at_one_place() -> None:
    """They are one object, under the label of the surest."""
    (found,) = match_objects([[at(0, 0.6, "Dog")], [at(0, 0.7, "Cat")], [at(1, 0.5, "Dog")]])
    assert (found.first, found.found_by) == (1, {1: 0, 0: 0, 2: 0})
    assert found.iou == pytest.approx(90 / 110)


def test_equal_scores_are_in_the_order_of_the_detectors() -> None:
    objects = match_objects([[at(0), at(50)], [at(50), at(0)]])
    assert [found.found_by for found in objects] == [{0: 0, 1: 1}, {0: 1, 1: 0}]


@pytest.mark.parametrize("detectors", [[], [[]], [[], []]])
def test_nothing_found(detectors: list[list[Seen]]) -> None:
    assert match_objects(detectors) == ()
