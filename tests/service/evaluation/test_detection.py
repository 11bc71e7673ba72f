"""Figures of detectors: intervals, halves, pairs, worst pictures."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from models.zoo.statistics import wilson
from service.evaluation.average_precision import Detections, Objects, match_classes
from service.evaluation.detection import judge_pairs, summarise
from service.evaluation.figures import RESAMPLINGS, DetectorResult, pack_floats
from tests.service.evaluation.boxes import detections_of, objects_of, random_pictures

LABELS = [f"thing {number}" for number in range(10)]


def summary(
    objects: list[Objects],
    detections: list[Detections],
    half: list[int] | None = None,
    min_score: float = 0.5,
) -> DetectorResult:
    return summarise(
        objects,
        detections,
        pictures=[f"{number:04}.jpg" for number in range(len(objects))],
        labels=LABELS,
        half=np.array(half if half is not None else [number % 2 for number in range(len(objects))]),
        min_score=min_score,
    )


def some(detections: Detections, random: np.random.Generator) -> Detections:
    """Return half of the detections by chance."""
    kept = random.random(len(detections.scores)) < 0.5
    return Detections(detections.boxes[kept], detections.scores[kept], detections.class_ids[kept])


def test_figures_agree_with_the_matches() -> None:
    objects, detections = random_pictures(1, 120, crowds=0.1, difficult=0.1)
    result = summary(objects, detections)
    matches = match_classes(objects, detections)
    scores = np.array([each.average_precision() for each in matches])
    assert result.ap.value == pytest.approx(scores.mean(), abs=1e-6)
    assert result.ap50 == pytest.approx(scores[:, 0].mean(), abs=1e-6)
    assert result.ap75 == pytest.approx(scores[:, 5].mean(), abs=1e-6)
    assert [(each.name, each.n) for each in result.per_class] == [
        (LABELS[each.class_id], len(each.objects)) for each in matches
    ]
    wanted = sum(int((~(each.crowd | each.difficult)).sum()) for each in objects)
    assert (result.n, result.objects) == (120, wanted)
    assert result.ap.low < result.ap.value < result.ap.high


def test_halves_are_those_of_their_pictures_alone() -> None:
    objects, detections = random_pictures(2, 90)
    half = [int(number % 3 == 0) for number in range(90)]
    result = summary(objects, detections, half)
    assert [each.n for each in result.halves] == [60, 30]
    for which, of_half in enumerate(result.halves):
        members = [number for number in range(90) if half[number] == which]
        alone = summary([objects[number] for number in members], [detections[number] for number in members])
        assert of_half.ap is not None
        assert of_half.ap.value == pytest.approx(alone.ap.value, abs=1e-6)
        assert of_half.ap.low < of_half.ap.value < of_half.ap.high
        assert of_half.ap.high - of_half.ap.low > result.ap.high - result.ap.low


def test_a_half_without_objects_has_no_figure() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    result = summary([objects_of([box]), objects_of([])], [detections_of([box], [0.9])] * 2)
    assert result.halves[0].ap is not None
    assert result.halves[1].ap is None
    assert result.ap.value == 1


@pytest.mark.slow
def test_intervals_cover_the_average_of_such_samples() -> None:
    objects, detections = random_pictures(3, 6000, classes=2)
    intervals = [
        summary(objects[start : start + 150], detections[start : start + 150]).ap
        for start in range(0, 6000, 150)
    ]
    average = float(np.mean([each.value for each in intervals]))
    assert 35 <= sum(each.low <= average <= each.high for each in intervals) <= 40
    assert max(each.high - each.low for each in intervals) < 0.1


def test_a_faultless_detector_has_an_interval() -> None:
    """All resamplings are equal: as many objects as these allow no more than Wilson's bound."""
    objects = [objects_of([(0, 0, 10, 10)])] * 20
    result = summary(objects, [detections_of([(0, 0, 10, 10)], [0.9])] * 20)
    assert (result.ap.value, result.ap.high) == (1, 1)
    assert result.ap.low == pytest.approx(wilson(20, 20)[0], abs=1e-6)


def test_the_same_data_gives_the_same_intervals() -> None:
    objects, detections = random_pictures(4, 30)
    assert summary(objects, detections) == summary(objects, detections)


@pytest.mark.slow
def test_pairs_of_detectors() -> None:
    objects, good = random_pictures(5, 200)
    random = np.random.default_rng(0)
    blurred = [
        Detections(each.boxes + random.normal(0, 4, each.boxes.shape), each.scores, each.class_ids)
        for each in good
    ]
    shuffled = [
        Detections(
            each.boxes, np.clip(each.scores + random.normal(0, 0.01, len(each.scores)), 0, 1), each.class_ids
        )
        for each in good
    ]
    results = {
        name: summary(objects, detections)
        for name, detections in {
            "good": good,
            "blurred": blurred,
            "shuffled": shuffled,
            "again": good,
        }.items()
    }
    pairs = {(pair.first, pair.second): pair for pair in judge_pairs(results)}
    assert len(pairs) == 6
    assert pairs["good", "blurred"].verdict == "first better"
    assert pairs["blurred", "shuffled"].verdict == "second better"
    assert pairs["good", "shuffled"].verdict == "not distinguishable"
    same = pairs["good", "again"]
    assert (same.difference, same.p, same.low) == (0, 1, -same.high)
    assert 0 < same.high < 0.01
    # paired: surer than the two intervals, which overlap less clearly
    close = pairs["good", "blurred"]
    apart = [results[name].ap for name in ("good", "blurred")]
    assert close.high - close.low < sum(each.high - each.low for each in apart)
    assert close.low <= close.difference <= close.high


def test_one_picture_decides_nothing() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    found, missed = detections_of([box], [0.9]), detections_of([], [])
    results = {name: summary([objects_of([box])], [each]) for name, each in (("a", found), ("b", missed))}
    (pair,) = judge_pairs(results)
    assert (pair.difference, pair.p, pair.verdict) == (1, 1, "not distinguishable")
    assert pair.low < 0.3


@pytest.mark.parametrize(
    "pictures", [2, *(pytest.param(more, marks=pytest.mark.fault) for more in (3, 4, 6))]
)
def test_few_pictures_rarely_decide(pictures: int) -> None:
    """Equal models: a verdict is an error, which 5 % may be (with the normal distribution 30 % were)."""
    decided = 0
    for seed in range(150):
        objects, found = random_pictures(1000 + seed, pictures, found=0.5, classes=2)
        random = np.random.default_rng(seed)
        if not any(len(each.boxes) for each in objects):
            continue
        half = random.integers(0, 2, pictures).tolist()
        equal = {name: summary(objects, [some(each, random) for each in found], half) for name in "ab"}
        decided += judge_pairs(equal)[0].verdict != "not distinguishable"
    assert decided <= 15


def test_worst_pictures_have_most_mistakes() -> None:
    box, other = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)
    objects = [
        objects_of([box]),
        objects_of([box, other]),
        objects_of([box], difficult=(0,)),
        objects_of([box], crowd=()),
        objects_of([box, other]),
    ]
    detections = [
        detections_of([box], [0.9]),
        detections_of([box, other], [0.9, 0.4]),  # one is below the score from which detections count
        detections_of([box, box], [0.9, 0.8]),
        detections_of([box, box, other], [0.9, 0.8, 0.3]),
        detections_of([(20, 20, 30, 30)], [0.8]),
    ]
    worst = summary(objects, detections).worst
    assert [(each.picture, each.missed, each.false) for each in worst] == [
        ("0004.jpg", 2, 1),
        ("0001.jpg", 1, 0),
        ("0003.jpg", 0, 1),
    ]


def test_no_object_to_find() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    with pytest.raises(ValueError, match="none to find"):
        summary([objects_of([box], difficult=(0,))], [detections_of([box], [0.9])])
    with pytest.raises(ValueError, match="as many of each"):
        summary([objects_of([box])], [])


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        ("AAAA", "3 bytes"),
        (pack_floats(np.zeros(3)), "resampled: 3, but"),
        (pack_floats(np.full(RESAMPLINGS, 1.5)), "not within 0 and 1"),
        (pack_floats(np.full(RESAMPLINGS, np.inf)), "not within 0 and 1"),
    ],
)
def test_broken_resamplings_are_refused(packed: str, message: str) -> None:
    result = summary([objects_of([(0, 0, 10, 10)])], [detections_of([(0, 0, 10, 10)], [0.9])])
    with pytest.raises(ValidationError, match=message):
        DetectorResult.model_validate(result.model_dump() | {"resampled": packed})
