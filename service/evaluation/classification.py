"""Accuracy of classifiers on a data set: shares with intervals, calibration, confusion, pairwise verdicts."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.zoo.paired import compare
from models.zoo.statistics import holm, wilson
from service.evaluation.figures import (
    MAX_CONFUSED,
    Bin,
    Calibration,
    ClassifierResult,
    ClassShare,
    Confused,
    Mean,
    Share,
    Threshold,
    WorstPicture,
    pack_bits,
)
from service.evaluation.result import Pair, Verdict

BINS = 15
"""Number of bins of the reliability curve (Guo et al., On Calibration of Modern Neural Networks, 2017)."""
RIGHT = 0.95
"""Share of right predictions that the function `threshold` demands."""
LEVEL = 0.05
"""Level of significance for p values that are already corrected for the number of comparisons."""
DIGITS = 6
MAX_WORST = 10


@dataclass(frozen=True, slots=True)
class Prediction:
    """Output of a classifier for one picture.

    `top`: the ids of up to five classes, the most probable class first. `probability`: the probability of the
    most probable class. `true_probability`: the probability of the true class.
    """

    top: tuple[int, ...]
    probability: float
    true_probability: float


def summarise(
    truth: NDArray[np.int64],
    predictions: Sequence[Prediction],
    *,
    pictures: Sequence[str],
    labels: Sequence[str],
    half: NDArray[np.int64],
) -> ClassifierResult:
    """Return every figure of a classifier.

    `truth`: true class id of each picture, int64 (n,). `pictures`: name of each picture. `labels`: the labels
    of all classes of the model. `half`: for each picture, the half of the data set that it belongs to, 0 or
    1, int64 (n,). Raises ValueError if there are no pictures, or if the arguments have different numbers of
    pictures.
    """
    n = len(truth)
    if n == 0 or not n == len(predictions) == len(pictures) == len(half):
        raise ValueError(
            f"{n} truths, {len(predictions)} predictions, {len(pictures)} names and {len(half)} halves "
            "(allowed: as many of each, at least one)"
        )
    names = _distinct(labels)
    predicted = np.array([each.top[0] for each in predictions], np.int64)
    probability = np.clip([each.probability for each in predictions], 0, 1)
    right = predicted == truth
    top5 = None
    if len(labels) > 5:
        in_top5 = sum(true in each.top for true, each in zip(truth.tolist(), predictions, strict=True))
        top5 = Share.of(in_top5, n)
    per_class = tuple(
        ClassShare(name=names[true], **Share.of(int(right[truth == true].sum()), int(count)).model_dump())
        for true, count in zip(*np.unique(truth, return_counts=True), strict=True)
    )
    confusion, omitted = _confusion(truth[~right], predicted[~right], names)
    return ClassifierResult(
        n=n,
        correct=pack_bits(right),
        top1=Share.of(int(right.sum()), n),
        top5=top5,
        macro=macro(per_class),
        per_class=per_class,
        confusion=confusion,
        confusion_omitted=omitted,
        calibration=calibration(probability, right),
        threshold=threshold(probability, right),
        worst=_worst(truth, predictions, pictures, names),
        halves=(_half(right[half == 0]), _half(right[half == 1])),
    )


def macro(classes: Sequence[Share]) -> Mean:
    """Return the mean accuracy of `classes`, all with equal weight, with its 95 % interval.

    Two intervals are computed. The result reaches from the lower of their lower bounds to the higher of their
    upper bounds.

    1. The method MOVER combines the Wilson intervals of the classes. Each class has a distance from its
       accuracy to the lower bound of its Wilson interval. The root of the sum of the squares of these
       distances, divided by the number of classes, is the distance from the mean to its lower bound; the same
       holds for the upper bounds (Zou, Huang and Zhang, Computational Statistics and Data Analysis 53, 2009).
       If there are many small classes, this interval contains the true mean too rarely.
    2. The other interval is Wilson's for the effective number of pictures, as it is used for surveys. This
       number is the size of a simple random sample whose share has the same variance as the mean (Franco et
       al., Journal of Survey Statistics and Methodology 7, 2019). If there is a small class among large ones,
       this interval contains the true mean too rarely.

    If there is only one class, the result is the Wilson interval of this class.
    """
    k = len(classes)
    shares = [(each.correct / each.n, *wilson(each.correct, each.n)) for each in classes]
    mean = min(1.0, math.fsum(value for value, _, _ in shares) / k)
    low = mean - math.sqrt(math.fsum((value - low) ** 2 for value, low, _ in shares)) / k
    high = mean + math.sqrt(math.fsum((high - value) ** 2 for value, _, high in shares)) / k
    if k > 1:
        effective = _effective_pictures(classes, mean)
        ends = wilson(mean * effective, effective)
        low, high = min(low, ends[0]), max(high, ends[1])
    return Mean(
        value=round(mean, DIGITS), low=round(max(0.0, low), DIGITS), high=round(min(1.0, high), DIGITS)
    )


def _effective_pictures(classes: Sequence[Share], mean: float) -> float:
    """Return the size of a simple random sample whose accuracy has the same variance as the classes' mean."""
    k = len(classes)
    if mean in (0, 1):
        return k * k / math.fsum(1 / each.n for each in classes)
    variance = 0.0
    for each in classes:
        # One picture with the mean accuracy is added to each class, because a small class may have no wrong
        # picture by chance. The divisor makes the estimate unbiased for a class with the mean accuracy.
        share = (each.correct + mean) / (each.n + 1)
        variance += share * (1 - share) / (each.n * (1 - each.n / (each.n + 1) ** 2))
    return mean * (1 - mean) * k * k / variance


def calibration(probability: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibration:
    """Return the reliability curve and the expected calibration error (Guo et al., 2017).

    `probability`: the probability of the predicted class, float64 (n,). `right`: whether the prediction is
    right. There are BINS equally wide bins of the probability. A bin excludes its lower bound and includes
    its upper bound. Each bin has a difference between its accuracy and its mean probability. The error is the
    mean of the absolute differences, in which each bin has the weight of its number of pictures. Chance makes
    the error larger than zero even for a perfectly calibrated model, especially with few pictures.
    """
    bounds = np.arange(BINS + 1) / BINS
    index = np.searchsorted(bounds[1:-1], probability, side="left")
    bins, error = [], 0.0
    for number in np.unique(index).tolist():
        members = index == number
        accuracy = Share.of(int(right[members].sum()), int(members.sum()))
        confidence = float(probability[members].mean())
        error += abs(int(accuracy.correct) - accuracy.n * confidence)
        bins.append(
            Bin(
                low=round(bounds[number], DIGITS),
                high=round(bounds[number + 1], DIGITS),
                confidence=round(confidence, DIGITS),
                accuracy=accuracy,
            )
        )
    return Calibration(ece=round(error / len(right), DIGITS), bins=tuple(bins))


def threshold(probability: NDArray[np.float64], right: NDArray[np.bool_]) -> Threshold | None:
    """Return the lowest probability that is a safe threshold for predictions, or None if there is none.

    A probability t is a safe threshold if predictions with at least this probability are right often enough.
    This is so if the accuracy on the pictures whose top-1 probability is at least t has a 95 % interval
    (Wilson) with a lower bound of at least RIGHT. It would not suffice that the accuracy itself is at least
    RIGHT: the lowest such t would partly be due to chance, and on other pictures the model would be right
    less often. If there are fewer than 73 pictures, there is no safe threshold, even if the model makes no
    error.
    """
    order = np.argsort(-probability, kind="stable")
    descending, correct = probability[order], np.cumsum(right[order])
    # pictures with equal probabilities pass a threshold together, so a prefix includes all or none of them
    ends = np.flatnonzero(np.append(descending[:-1] > descending[1:], True)) + 1
    for n in reversed(ends[correct[ends - 1] >= RIGHT * ends].tolist()):
        count = int(correct[n - 1])
        if wilson(count, n)[0] >= RIGHT:
            return Threshold(
                probability=float(descending[n - 1]),
                share=round(n / len(right), DIGITS),
                accuracy=Share.of(count, n),
            )
    return None


def judge_pairs(right: Mapping[str, NDArray[np.bool_]]) -> tuple[Pair, ...]:
    """Compare every two models of one label set by McNemar's test, corrected by Holm's method.

    `right`: for each model, whether it classifies each picture correctly, bool (n,). All models have the same
    pictures. The test is the two-sided mid-p variant. The interval of the difference is Agresti and Min's,
    without correction (models/zoo/paired.py).
    """
    names = list(itertools.combinations(right, 2))
    compared = [compare(right[first], right[second]) for first, second in names]
    corrected = holm([each.p for each in compared])
    return tuple(
        judged_pair(first, second, each.difference, each.low, each.high, p)
        for (first, second), each, p in zip(names, compared, corrected, strict=True)
    )


def judged_pair(first: str, second: str, difference: float, low: float, high: float, p: float) -> Pair:
    """Return the comparison of two models with its verdict.

    `p` must already be corrected for the number of comparisons.
    """
    verdict: Verdict = "not distinguishable"
    if p < LEVEL:
        verdict = "first better" if difference > 0 else "second better"
    return Pair(
        first=first,
        second=second,
        difference=round(difference, DIGITS),
        low=round(max(-1.0, low), DIGITS),
        high=round(min(1.0, high), DIGITS),
        p=p,
        verdict=verdict,
    )


def partial_note(labels: str, classes: int, of: int) -> str | None:
    """Return a note if only some classes of a label set have pictures. Return None if all have pictures.

    `classes`: number of classes that have pictures. `of`: number of all classes.
    """
    if classes == of:
        return None
    return (
        f"{classes} of the {of} classes of {labels} {'has' if classes == 1 else 'have'} pictures here: "
        f"this is not {_article(labels)} accuracy and cannot be compared with one"
    )


def _article(labels: str) -> str:
    name = "ImageNet" if labels == "imagenet-1k" else labels
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _distinct(labels: Sequence[str]) -> list[str]:
    """Return the labels, with the class id appended to each label that several classes share."""
    counts = Counter(labels)
    return [f"{label} ({number})" if counts[label] > 1 else label for number, label in enumerate(labels)]


def _confusion(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]
) -> tuple[tuple[Confused, ...], int]:
    """Return the most frequent pairs of a true class and a wrongly predicted class.

    `truth` and `predicted`: the class ids of the wrongly classified pictures, int64 (n,). At most
    MAX_CONFUSED pairs are returned. The second item of the result is the number of pictures in all the other
    pairs.
    """
    counts = Counter(zip(truth.tolist(), predicted.tolist(), strict=True))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    confusion = tuple(
        Confused(true=names[true], predicted=names[other], count=count)
        for (true, other), count in ordered[:MAX_CONFUSED]
    )
    return confusion, sum(count for _, count in ordered[MAX_CONFUSED:])


def _worst(
    truth: NDArray[np.int64], predictions: Sequence[Prediction], pictures: Sequence[str], names: Sequence[str]
) -> tuple[WorstPicture, ...]:
    """Return the wrongly classified pictures with the highest probability of the predicted class.

    Pictures with equal probability are ordered by the probability of the true class, the lowest first.
    """
    wrong = sorted(
        (-each.probability, each.true_probability, picture, true, each.top[0])
        for picture, true, each in zip(pictures, truth.tolist(), predictions, strict=True)
        if each.top[0] != true
    )
    return tuple(
        WorstPicture(
            picture=picture,
            true=names[true],
            predicted=names[predicted],
            probability=round(min(1.0, -negative), DIGITS),
        )
        for negative, _, picture, true, predicted in wrong[:MAX_WORST]
    )


def _half(right: NDArray[np.bool_]) -> Share | None:
    return Share.of(int(right.sum()), len(right)) if len(right) else None
