"""Average precision against pycocotools, and Pascal VOC's difficult objects against plain loops."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from service.evaluation.average_precision import (
    AP50,
    AP75,
    THRESHOLDS,
    Detections,
    Objects,
    match_classes,
)
from tests.service.evaluation.boxes import detections_of, objects_of, random_pictures
from tests.service.evaluation.slow_matching import slow_average_precision


def coco(pictures: int, classes: Sequence[int], annotations: list[dict[str, Any]]) -> COCO:
    data = COCO()
    data.dataset = {
        "images": [{"id": number} for number in range(pictures)],
        "categories": [{"id": number, "name": str(number)} for number in classes],
        "annotations": [
            {"id": number, "area": each["bbox"][2] * each["bbox"][3], "iscrowd": 0} | each
            for number, each in enumerate(annotations, 1)
        ],
    }
    data.createIndex()
    return data


def by_pycocotools(objects: Sequence[Objects], detections: Sequence[Detections]) -> tuple[Any, list[float]]:
    """Return precision (thresholds, recalls, classes) with -1 for no objects, and three figures."""

    def boxes(every: Sequence[Any]) -> list[dict[str, Any]]:
        return [
            {
                "image_id": picture,
                "category_id": int(class_id),
                "bbox": [left, top, right - left, bottom - top],
                **({"score": each.scores[index]} if hasattr(each, "scores") else {}),
                **({"iscrowd": int(each.crowd[index])} if hasattr(each, "crowd") else {}),
            }
            for picture, each in enumerate(every)
            for index, (class_id, (left, top, right, bottom)) in enumerate(
                zip(each.class_ids, each.boxes.tolist(), strict=True)
            )
        ]

    classes = range(10)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco(len(objects), classes, boxes(objects))
        evaluation = COCOeval(truth, coco(len(objects), classes, boxes(detections)), "bbox")
        # objects of every size, as ours: those of one size alone would take three times as long again
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.eval["precision"][:, :, :, 0, -1], list(evaluation.stats[:3])


def precisions(
    objects: Sequence[Objects], detections: Sequence[Detections]
) -> dict[int, NDArray[np.float64]]:
    """Return ours: average precision at each threshold by class, for classes with objects to find."""
    matches = match_classes(objects, detections)
    return {each.class_id: each.average_precision() for each in matches if len(each.objects)}


CASES = {
    "plain": {"pictures": 60},
    "many pictures": {"pictures": 400, "classes": 8},
    "one picture": {"pictures": 1},
    "crowds": {"pictures": 80, "crowds": 0.3},
    "crowds alone": {"pictures": 10, "crowds": 1.0, "classes": 2},
    "ties": {"pictures": 120, "ties": True},
    "ties and crowds": {"pictures": 120, "ties": True, "crowds": 0.3, "classes": 2, "most_objects": 12},
    "pictures without objects": {"pictures": 200, "most_objects": 1},
    "nothing detected": {"pictures": 20, "found": 0.0, "extra": 0},
    "more than a hundred detections": {"pictures": 6, "classes": 1, "most_objects": 150, "extra": 250},
    "sparse classes": {"pictures": 10, "classes": 9, "most_objects": 2},
    "exact boxes": {"pictures": 60, "jitter": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", CASES)
def test_equal_to_pycocotools(case: str, seed: int) -> None:
    objects, detections = random_pictures(seed, **CASES[case])  # type: ignore[arg-type]
    expected, figures = by_pycocotools(objects, detections)
    ours = precisions(objects, detections)
    for class_id in range(10):
        theirs = expected[:, :, class_id]
        if (theirs == -1).all():
            assert class_id not in ours
        else:
            np.testing.assert_allclose(ours[class_id], theirs.mean(axis=1), atol=1e-9)
    if ours:
        mean = np.mean(list(ours.values()), axis=0)
        assert (mean.mean(), mean[AP50], mean[AP75]) == pytest.approx(tuple(figures), abs=1e-9)
    else:
        assert figures[0] == -1


def test_random_pictures_are_neither_trivial_nor_hopeless() -> None:
    values = np.mean(list(precisions(*random_pictures(0, 300)).values()), axis=0)
    assert 0.2 < values.mean() < 0.8
    assert values[AP50] > values[AP75] > values[-1]


@pytest.mark.slow
def test_few_objects_of_a_class_give_a_higher_figure() -> None:
    """From 400 to 20 objects of each of 20 classes: the figure that docs/own-pictures.md states."""
    objects, detections = random_pictures(1, 4000, classes=20, most_objects=4)

    def figure(pictures: slice) -> float:
        values = precisions(objects[pictures], detections[pictures]).values()
        return float(np.mean([each.mean() for each in values]))

    few = np.mean([figure(slice(start, start + 200)) for start in range(0, 4000, 200)])
    assert few - figure(slice(None)) == pytest.approx(0.03, abs=0.005)


@pytest.mark.parametrize("seed", range(6))
def test_difficult_and_crowds_equal_plain_loops(seed: int) -> None:
    objects, detections = random_pictures(seed, 40, crowds=0.1, difficult=0.3, ties=seed % 2 == 1)
    ours = {each.class_id: each.average_precision() for each in match_classes(objects, detections)}
    assert len(ours) == 4
    for class_id, values in ours.items():
        for threshold, value in zip(THRESHOLDS.tolist(), values.tolist(), strict=True):
            slow = slow_average_precision(objects, detections, class_id, threshold)
            assert value == pytest.approx(slow, abs=1e-9)


def test_difficult_objects_count_neither_way() -> None:
    """What finds one, also twice, is no mistake; that nothing finds it is none either."""
    easy, hard = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 70.0, 70.0)
    truth = [objects_of([easy, hard], difficult=(1,))]
    for boxes in ([easy], [hard, easy], [hard, hard, easy]):
        found = [detections_of(boxes, [0.9 - 0.1 * number for number in range(len(boxes))])]
        assert precisions(truth, found)[0].tolist() == [1.0] * 10
    plain = [objects_of([easy, hard])]
    assert precisions(plain, [detections_of([easy], [0.9])])[0] == pytest.approx(np.full(10, 51 / 101))


def test_an_object_is_preferred_to_a_difficult_one() -> None:
    truth = [objects_of([(0, 0, 10, 10), (0, 0, 10, 12)], difficult=(1,))]
    assert precisions(truth, [detections_of([(0, 0, 10, 12)], [0.5])])[0][AP50] == 1


def test_classes_without_objects_are_left_out() -> None:
    truth = [objects_of([(0, 0, 10, 10)], [3]), objects_of([])]
    found = [
        detections_of([(0, 0, 10, 10)] * 2, [0.9, 0.5], [3, 7]),
        detections_of([(0, 0, 5, 5)], [0.9], [7]),
    ]
    (only,) = match_classes(truth, found)
    assert (only.class_id, only.objects.tolist(), only.pictures.tolist()) == (3, [0], [0])
    assert match_classes([objects_of([])], [detections_of([], [])]) == ()


def test_boxes_without_area_find_nothing() -> None:
    truth = [objects_of([(0, 0, 10, 10), (20, 20, 20, 20)], crowd=(1,))]
    found = [detections_of([(0, 0, 10, 10), (5, 5, 5, 5), (20, 20, 20, 20)], [0.9, 0.95, 0.96])]
    assert precisions(truth, found)[0] == pytest.approx(np.full(10, 1 / 3))


@pytest.mark.parametrize("case", ["plain", "ties and crowds", "sparse classes"])
def test_resampling_equals_repeated_pictures(case: str) -> None:
    """Weights give what copies of the pictures give, but for recalls that are a hundredth exactly."""
    objects, detections = random_pictures(5, **CASES[case])  # type: ignore[arg-type]
    random = np.random.default_rng(0)  # its scores differ, so that copies stand one after another
    detections = [
        Detections(each.boxes, random.random(len(each.scores)), each.class_ids) for each in detections
    ]
    n = len(objects)
    weights = random.multinomial(n, np.full(n, 1 / n), 5).astype(np.float32)
    matches = match_classes(objects, detections)
    resampled = {each.class_id: each.resampled(weights.T) for each in matches}
    for row, counts in enumerate(weights.astype(int).tolist()):
        copies = [index for index, count in enumerate(counts) for _ in range(count)]
        expected = precisions([objects[index] for index in copies], [detections[index] for index in copies])
        for class_id, values in resampled.items():
            if class_id in expected:
                assert values[row] == pytest.approx(expected[class_id].mean(), abs=5e-3)
            else:
                assert np.isnan(values[row])


def test_weights_of_one_give_the_same_figure() -> None:
    objects, detections = random_pictures(3, 300, crowds=0.1, difficult=0.1)
    for each in match_classes(objects, detections):
        values = each.resampled(np.ones((300, 2), np.float32))
        assert values == pytest.approx(each.average_precision().mean(), abs=5e-3)


def test_pictures_that_differ_in_number() -> None:
    with pytest.raises(ValueError, match="objects of 1 pictures and detections of 2"):
        match_classes([objects_of([])], [detections_of([], [])] * 2)


@pytest.mark.slow
def test_many_boxes_of_one_class_are_counted_in_parts() -> None:
    """40 000 detections, 1 600 000 pairs and 8 000 000 weights, as of faces in a crowd; memory stays flat."""
    random = np.random.default_rng(3)
    one = random.uniform(0, 190, (40, 2))
    boxes = np.concatenate([one, one + random.uniform(5, 10, (40, 2))], axis=1)
    objects = [objects_of(list(map(tuple, boxes.tolist())))] * 400
    detections = []
    for _ in objects:
        noisy = np.concatenate([boxes, boxes, boxes[:20]]) + random.normal(0, 0.5, (100, 4))
        detections.append(Detections(noisy, np.sort(random.random(100))[::-1], np.zeros(100, np.int64)))
    weights = random.integers(0, 3, (400, 200)).astype(np.float32)
    tracemalloc.start()
    [whole] = match_classes(objects, detections)
    resampled = whole.resampled(weights)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 110_000_000
    for picture in range(0, 400, 23):
        [alone] = match_classes([objects[picture]], [detections[picture]])
        np.testing.assert_array_equal(whole.hit[:, whole.pictures == picture], alone.hit)
    apart = [whole.resampled(weights[:, column : column + 1])[0] for column in (0, 99, 100, 199)]
    assert resampled[[0, 99, 100, 199]].tolist() == pytest.approx(apart, rel=1e-6)
