"""Figures of classifiers against plain loops, and on cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.zoo.paired import mcnemar
from models.zoo.statistics import wilson
from service.evaluation.classification import (
    RIGHT,
    Prediction,
    calibration,
    judge_pairs,
    macro,
    partial_note,
    summarise,
    threshold,
)
from service.evaluation.figures import MAX_CONFUSED, ClassifierResult, Share

LABELS = [f"class {number}" for number in range(12)]


def simulated(
    n: int, seed: int, classes: int = 12, skill: float = 2.0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return true classes and probabilities, float64 (n, classes), of a calibrated classifier."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, skill, (n, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array([random.choice(classes, p=row) for row in probabilities], dtype=np.int64)
    return truth, probabilities


def predictions_of(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[Prediction]:
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    return [
        Prediction(tuple(top), float(row[top[0]]), float(row[true]))
        for true, row, top in zip(truth.tolist(), probabilities, order.tolist(), strict=True)
    ]


def summary(
    truth: NDArray[np.int64], probabilities: NDArray[np.float64], **given: object
) -> ClassifierResult:
    arguments = {
        "pictures": [f"{number:05}.png" for number in range(len(truth))],
        "labels": LABELS[: probabilities.shape[1]],
        "half": np.arange(len(truth)) % 2,
        **given,
    }
    return summarise(truth, predictions_of(truth, probabilities), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (7, 1), (300, 2), (2000, 3)])
def test_figures_equal_plain_loops(n: int, seed: int) -> None:
    truth, probabilities = simulated(n, seed)
    result = summary(truth, probabilities)
    right, top5, confused = [], 0, {}
    by_class: dict[int, list[bool]] = {}
    for true, row in zip(truth.tolist(), probabilities.tolist(), strict=True):
        ranked = sorted(range(12), key=lambda number: -row[number])
        right.append(ranked[0] == true)
        top5 += true in ranked[:5]
        by_class.setdefault(true, []).append(ranked[0] == true)
        if ranked[0] != true:
            key = (LABELS[true], LABELS[ranked[0]])
            confused[key] = confused.get(key, 0) + 1
    assert result.right.tolist() == right
    assert (result.top1.n, result.top1.correct) == (n, sum(right))
    assert (result.top1.low, result.top1.high) == pytest.approx(wilson(sum(right), n), abs=1e-6)
    assert result.top5 is not None
    assert result.top5.correct == top5
    assert {each.name: (each.n, each.correct) for each in result.per_class} == {
        LABELS[true]: (len(answers), sum(answers)) for true, answers in by_class.items()
    }
    recalls = [sum(answers) / len(answers) for answers in by_class.values()]
    assert result.macro.value == pytest.approx(sum(recalls) / len(recalls), abs=1e-6)
    assert {(pair.true, pair.predicted): pair.count for pair in result.confusion} == confused
    counts = [pair.count for pair in result.confusion]
    assert counts == sorted(counts, reverse=True)
    assert [half.correct if half else 0 for half in result.halves] == [sum(right[::2]), sum(right[1::2])]


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (40, 1), (3000, 2)])
def test_calibration_equals_a_plain_loop(n: int, seed: int) -> None:
    """The bins are those of Guo et al.: ((m - 1) / 15, m / 15]."""
    random = np.random.default_rng(seed)
    probability = np.append(random.random(n), [0.0, 1 / 15, 0.2, 0.4, 1.0])
    right = random.random(n + 5) < probability
    result = calibration(probability, right)
    error, bins = 0.0, []
    for m in range(1, 16):
        members = [
            index
            for index, value in enumerate(probability.tolist())
            if (m - 1) / 15 < value <= m / 15 or (m == 1 and value == 0)
        ]
        if members:
            accuracy = sum(bool(right[index]) for index in members) / len(members)
            confidence = sum(probability[index] for index in members) / len(members)
            error += len(members) / (n + 5) * abs(accuracy - confidence)
            bins.append((len(members), accuracy, confidence))
    assert result.ece == pytest.approx(error, abs=1e-6)
    for given_bin, (count, accuracy, confidence) in zip(result.bins, bins, strict=True):
        assert given_bin.accuracy.n == count
        assert given_bin.accuracy.value == pytest.approx(accuracy, abs=1e-6)
        assert given_bin.confidence == pytest.approx(confidence, abs=1e-6)
        assert given_bin.low <= given_bin.confidence <= given_bin.high


@pytest.mark.slow
def test_calibration_of_calibrated_and_of_overconfident_models() -> None:
    truth, probabilities = simulated(20_000, 0)
    calibrated = summary(truth, probabilities).calibration
    assert calibrated.ece < 0.02
    covered = sum(each.accuracy.low <= each.confidence <= each.accuracy.high for each in calibrated.bins)
    assert covered >= len(calibrated.bins) - 2
    surer = probabilities**4 / (probabilities**4).sum(axis=1, keepdims=True)
    assert summary(truth, surer).calibration.ece > 0.1


def test_threshold_equals_a_plain_loop() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        probability = random.integers(50, 101, 400) / 100  # many ties
        right = random.random(400) < probability
        expected = None
        for value in sorted(set(probability.tolist())):
            reached = probability >= value
            if wilson(int(right[reached].sum()), int(reached.sum()))[0] >= RIGHT:
                expected = (value, int(reached.sum()), int(right[reached].sum()))
                break
        found = threshold(probability, right)
        given_threshold = found and (found.probability, found.accuracy.n, found.accuracy.correct)
        assert given_threshold == expected
        if found:
            assert found.share == found.accuracy.n / 400
            assert found.accuracy.low >= RIGHT


@pytest.mark.slow
def test_threshold_holds_on_other_pictures() -> None:
    """Few thresholds are only lucky, of a model that is right as often as it says."""
    found, lucky = 0, 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        probability = random.uniform(0.5, 1, 5000)
        chosen = threshold(probability, random.random(5000) < probability)
        if chosen is not None:
            found += 1
            lucky += (1 + chosen.probability) / 2 < RIGHT  # the accuracy above it, of all pictures there are
    assert found > 180
    assert lucky / found < 0.08


def test_threshold_needs_enough_pictures() -> None:
    assert threshold(np.full(72, 0.9), np.ones(72, bool)) is None
    chosen = threshold(np.full(73, 0.9), np.ones(73, bool))
    assert chosen is not None
    assert (chosen.probability, chosen.share) == (0.9, 1)
    assert threshold(np.full(1000, 0.9), np.arange(1000) % 10 > 0) is None


def test_macro_interval_of_one_class_is_wilsons() -> None:
    result = macro([Share.of(17, 20)])
    assert (result.value, result.low, result.high) == (0.85, *(round(end, 6) for end in wilson(17, 20)))


@pytest.mark.parametrize(
    ("sizes", "accuracies"),
    [
        ((200, 50, 10), (0.9, 0.7, 0.5)),
        ((30,) * 4, (0.98, 0.95, 0.9, 0.99)),
        ((5,) * 20, (0.8,) * 20),
        ((1,) * 30, (0.8,) * 30),
        ((40,) * 20, (0.97,) * 20),
        ((1000, 3), (0.95, 0.7)),
    ],
)
def test_macro_interval_covers(sizes: tuple[int, ...], accuracies: tuple[float, ...]) -> None:
    random = np.random.default_rng(0)
    truth = sum(accuracies) / len(accuracies)
    covered = 0
    for _ in range(500):
        drawn = [int(random.binomial(n, share)) for n, share in zip(sizes, accuracies, strict=True)]
        result = macro([Share.of(correct, n) for correct, n in zip(drawn, sizes, strict=True)])
        covered += result.low <= truth <= result.high
    assert 465 <= covered < 500


def test_macro_of_one_picture_a_class_is_unsure() -> None:
    result = macro([Share.of(1, 1), Share.of(1, 1)])
    assert result.value == result.high == 1
    assert result.low < 0.5


def test_worst_pictures_are_the_surest_mistakes() -> None:
    truth = np.array([0, 1, 2, 3] * 5)
    probabilities = np.full((20, 12), 0.01)
    for index in range(20):
        probabilities[index, 0] = 0.5 + index / 100
    probabilities[9, 0] = probabilities[10, 0]  # a tie: the true class is less probable for one
    probabilities[9, 1] = 0.2
    worst = summary(truth, probabilities).worst
    assert len(worst) == 10
    assert [int(each.picture[:5]) for each in worst] == [19, 18, 17, 15, 14, 13, 11, 10, 9, 7]
    assert (worst[0].true, worst[0].predicted) == ("class 3", "class 0")
    assert worst[0].probability == 0.69


def test_few_classes_have_no_top_5() -> None:
    truth, probabilities = simulated(50, 0, classes=5)
    assert summary(truth, probabilities).top5 is None


def test_one_half_can_be_empty() -> None:
    truth, probabilities = simulated(30, 0)
    result = summary(truth, probabilities, half=np.ones(30, np.int64))
    assert result.halves[0] is None
    assert result.halves[1] == result.top1


def test_equal_labels_are_told_apart() -> None:
    truth = np.array([0, 1, 2])
    probabilities = np.eye(12)[[1, 1, 2]]
    result = summary(truth, probabilities, labels=["crane", "crane", *LABELS[2:]])
    assert [(pair.true, pair.predicted) for pair in result.confusion] == [("crane (0)", "crane (1)")]


def test_rare_confusions_are_counted_together() -> None:
    classes = 50
    truth = np.arange(classes * classes) // classes
    probabilities = np.eye(classes)[np.arange(classes * classes) % classes]
    result = summary(truth, probabilities, labels=[f"class {number}" for number in range(classes)])
    assert len(result.confusion) == MAX_CONFUSED
    assert result.confusion_omitted == classes * (classes - 1) - MAX_CONFUSED


def test_lengths_that_differ() -> None:
    truth, probabilities = simulated(3, 0)
    with pytest.raises(ValueError, match="3 truths, 3 predictions, 2 names and 3 halves"):
        summary(truth, probabilities, pictures=["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        summary(truth[:0], probabilities[:0])


@pytest.mark.slow
@given(st.integers(0, 120), st.integers(0, 120), st.integers(0, 300))
def test_a_pair_is_judged_by_mcnemar(only_first: int, only_second: int, both: int) -> None:
    n = only_first + only_second + both + 1
    first, second = np.zeros(n, bool), np.zeros(n, bool)
    first[: only_first + both] = True
    second[only_first : only_first + both + only_second] = True
    (pair,) = judge_pairs({"first": first, "second": second})
    assert pair.p == pytest.approx(mcnemar(only_first, only_second))
    assert pair.difference == pytest.approx((only_first - only_second) / n, abs=1e-6)
    assert pair.low <= pair.difference <= pair.high
    if pair.p >= 0.05:
        assert pair.verdict == "not distinguishable"
    else:
        assert pair.verdict == ("first better" if only_first > only_second else "second better")


def test_pairs_are_corrected_for_their_number() -> None:
    """The same 16 pictures to 4 are a verdict alone, and none among fifteen pairs."""
    better, worse = np.ones(200, bool), np.ones(200, bool)
    better[:4] = False
    worse[4:20] = False
    (alone,) = judge_pairs({"better": better, "worse": worse})
    assert alone.verdict == "first better"
    right = {"better": better, "worse": worse} | {f"other-{number}": better for number in range(4)}
    pairs = judge_pairs(right)
    assert len(pairs) == math.comb(6, 2)
    (pair,) = (pair for pair in pairs if (pair.first, pair.second) == ("better", "worse"))
    assert pair.p == pytest.approx(min(1, 15 * alone.p))
    assert pair.verdict == "not distinguishable"
    assert judge_pairs({"better": better}) == ()


def test_notes_on_a_part_of_the_classes() -> None:
    assert partial_note("fashion-mnist", 10, 10) is None
    note = partial_note("imagenet-1k", 3, 1000)
    assert note is not None
    assert note.startswith("3 of the 1000 classes of imagenet-1k have pictures here: this is not an ImageNet")
    other = partial_note("open-images-24", 1, 24)
    assert other is not None
    assert "1 of the 24 classes of open-images-24 has pictures here" in other
