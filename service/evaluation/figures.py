"""Figures of an evaluated model. Validators refuse figures that contradict the counts they come from."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Annotated, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import FailFast, Field, StringConstraints, model_validator

from models.zoo.card import Count, Fraction, Name, PositiveCount
from models.zoo.frozen import Finite
from models.zoo.statistics import wilson

RESAMPLINGS = 200
"""How often the pictures are resampled with replacement for a detector's intervals and p values."""
MAX_CONFUSED = 1000
"""Maximum number of pairs of classes that a confusion table lists."""

Text = Annotated[str, StringConstraints(max_length=4096)]
Bits = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9+/]*={0,2}$"),
    Field(description="Base64 of bits, the first in the most significant place"),
]
Floats = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=100_000),
    Field(description="Base64 of little-endian float32"),
]
T = TypeVar("T")
Many = Annotated[tuple[T, ...], FailFast()]
"""A tuple of which only the first invalid item is reported, because the errors of millions of items would
fill the memory."""
Severities = tuple[Fraction, Fraction, Fraction, Fraction, Fraction]
_TOLERANCE = 2e-6
"""Allowed difference between a stated share and the share that its counts give. The stated share is rounded
to six digits."""


def pack_bits(bits: Iterable[bool]) -> str:
    """Return booleans in the form of the type `Bits`: packed as bits, in base64."""
    return base64.b64encode(np.packbits(np.fromiter(bits, dtype=bool)).tobytes()).decode()


def unpack_bits(packed: str, n: int) -> NDArray[np.bool_]:
    """Return the booleans that `pack_bits` has packed, bool (n,). Raises ValueError unless there are `n`."""
    try:
        content = base64.b64decode(packed, validate=True)
    except binascii.Error:
        raise ValueError("bits: not base64") from None
    if len(content) != (n + 7) // 8:
        raise ValueError(f"bits: {len(content)} bytes for {n} pictures")
    bits = np.unpackbits(np.frombuffer(content, dtype=np.uint8)).astype(bool)
    if bits[n:].any():
        raise ValueError(f"bits: more than {n} pictures")
    return bits[:n]


def pack_floats(values: NDArray[np.floating]) -> str:
    """Return numbers in the form of the type `Floats`: as float32, in base64."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def unpack_floats(packed: str) -> NDArray[np.float64]:
    """Return the numbers that `pack_floats` has packed, float64 (n,). Raises ValueError for invalid text."""
    try:
        content = base64.b64decode(packed, validate=True)
    except binascii.Error:
        raise ValueError("floats: not base64") from None
    if len(content) % 4:
        raise ValueError(f"floats: {len(content)} bytes (allowed: a multiple of 4)")
    return np.frombuffer(content, "<f4").astype(np.float64)


class Share(Finite):
    """Share of pictures: `correct` of `n`, with its 95 % Wilson interval."""

    n: PositiveCount
    correct: Count
    value: Fraction
    low: Fraction
    high: Fraction

    @classmethod
    def of(cls, correct: int, n: int) -> Self:
        """Return the share with its interval. Raises ValueError unless 0 <= correct <= n and n > 0."""
        if not 0 <= correct <= n or n == 0:
            raise ValueError(f"{correct} of {n} is no share")
        low, high = wilson(correct, n)
        return cls(n=n, correct=correct, value=round(correct / n, 6), low=round(low, 6), high=round(high, 6))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.correct > self.n:
            raise ValueError(f"{self.correct} of {self.n} is no share")
        for name, value in zip(("low", "high"), wilson(self.correct, self.n), strict=True):
            _same(f"{name} of {self.correct} of {self.n}", getattr(self, name), value)
        _same(f"value of {self.correct} of {self.n}", self.value, self.correct / self.n)
        return self


class Mean(Finite):
    """A mean that is not a share of counted pictures, with its 95 % interval."""

    value: Fraction
    low: Fraction
    high: Fraction

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.value + _TOLERANCE or not self.value <= self.high + _TOLERANCE:
            raise ValueError(f"{self.value} is not between {self.low} and {self.high}")
        return self


class ClassShare(Share):
    """Share of the pictures of one class that are classified correctly. `name`: the label."""

    name: Text


class Confused(Finite):
    """Number of pictures, `count`, of the class `true` that were classified as the class `predicted`."""

    true: Text
    predicted: Text
    count: PositiveCount


class Bin(Finite):
    """Pictures whose top-1 probability is above `low` and at most `high`; `confidence` is their mean."""

    low: Fraction
    high: Fraction
    confidence: Fraction
    accuracy: Share


class Calibration(Finite):
    """Reliability curve and expected calibration error. Bins that have no pictures are left out."""

    ece: Fraction
    bins: Many[Bin]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        n = sum(each.accuracy.n for each in self.bins)
        gaps = (each.accuracy.n * abs(each.accuracy.value - each.confidence) for each in self.bins)
        _same("ece", self.ece, sum(gaps) / n if n else 0.0, 1e-5)
        return self


class Threshold(Finite):
    """Lowest top-1 probability at and above which predictions are right often enough.

    `share`: of all pictures, how many reach this probability.
    """

    probability: Fraction
    share: Fraction
    accuracy: Share = Field(description="Accuracy on the pictures that reach the probability")


class WorstPicture(Finite):
    """A picture to which the network gives a wrong top-1 class with a high probability."""

    picture: Text = Field(description="Path in the data set")
    true: Text
    predicted: Text
    probability: Fraction


class ClassifierResult(Finite):
    """Accuracy of a classifier on the pictures of its label set."""

    n: PositiveCount
    correct: Bits = Field(
        description="Whether top-1 is right: one bit per picture of the label set, in their order"
    )
    top1: Share
    top5: Share | None = Field(description="null for label sets of up to five classes")
    macro: Mean = Field(description="Mean over the classes that have pictures, all with equal weight")
    per_class: Many[ClassShare]
    confusion: Many[Confused] = Field(max_length=MAX_CONFUSED, description="Most frequent first")
    confusion_omitted: Count = Field(
        default=0, description="Number of confused pictures in pairs that are not listed"
    )
    calibration: Calibration
    threshold: Threshold | None = Field(
        description="Lowest probability at and above which 95 % are right; null if there is none"
    )
    worst: Many[WorstPicture] = Field(max_length=10)
    halves: tuple[Share | None, Share | None] = Field(
        description="Accuracy on each half of the pictures; null if the half has no picture"
    )

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the top-1 class is right, bool (n,), for each of the n pictures in these figures."""
        return unpack_bits(self.correct, self.n)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        correct = int(self.right.sum())
        _counts("top1", (self.top1.n, self.top1.correct), (self.n, correct))
        if self.top5 is not None:
            _counts("top5.n", self.top5.n, self.n)
            if self.top5.correct < correct:
                raise ValueError(f"top5: {self.top5.correct} correct, but {correct} are in top1")
        _counts("per_class", _totals(self.per_class), (self.n, correct))
        shares = [each.correct / each.n for each in self.per_class]
        _same("macro", self.macro.value, sum(shares) / len(shares))
        if any(pair.true == pair.predicted for pair in self.confusion):
            raise ValueError("confusion: a pair of equal classes is not confused")
        confused = sum(pair.count for pair in self.confusion) + self.confusion_omitted
        _counts("confusion", confused, self.n - correct)
        bins = [each.accuracy for each in self.calibration.bins]
        _counts("calibration", _totals(bins), (self.n, correct))
        if self.threshold is not None:
            _same("threshold.share", self.threshold.share, self.threshold.accuracy.n / self.n)
        _counts("halves", _totals(half for half in self.halves if half), (self.n, correct))
        return self


class ClassAp(Finite):
    """Average precision of one class; null if it has no objects to find."""

    name: Text
    n: Count = Field(description="Number of objects to find: those that are neither crowds nor difficult")
    ap: Fraction | None = Field(description="Mean over IoU 0.5 to 0.95")
    ap50: Fraction | None = Field(description="At IoU 0.5")


class ApHalf(Finite):
    """Average precision on one half of the pictures; null if it has no objects to find."""

    n: Count = Field(description="Number of pictures")
    ap: Mean | None


class WorstDetections(Finite):
    """A picture with many missed objects or many false boxes."""

    picture: Text = Field(description="Path in the data set")
    missed: Count
    false: Count


class DetectorResult(Finite):
    """Average precision of a detector, as COCO defines it, on the pictures of its label set."""

    n: PositiveCount
    objects: Count = Field(description="Number of objects to find, of the classes that the detector knows")
    ap: Mean = Field(description="Mean over IoU 0.5 to 0.95 and classes")
    ap50: Fraction
    ap75: Fraction
    per_class: Many[ClassAp]
    halves: tuple[ApHalf, ApHalf]
    resampled: Floats = Field(
        description="`ap` on each resampling of the pictures; the resamplings are the same for all models. "
        "NaN if a resampling has no objects"
    )
    worst: Many[WorstDetections] = Field(max_length=10)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _counts("per_class: objects", sum(each.n for each in self.per_class), self.objects)
        _counts("halves: pictures", sum(half.n for half in self.halves), self.n)
        sample = unpack_floats(self.resampled)
        known = sample[~np.isnan(sample)]
        _counts("resampled", len(sample), RESAMPLINGS)
        if len(known) and not (known.min() >= 0 and known.max() <= 1 + _TOLERANCE):
            raise ValueError("resampled: not within 0 and 1")
        for name, total in (("ap", self.ap.value), ("ap50", self.ap50)):
            values = [value for each in self.per_class if (value := getattr(each, name)) is not None]
            if not values:
                raise ValueError(f"{name}: no class has objects to find")
            _same(name, total, sum(values) / len(values), 1e-5)
        return self


class Corruptions(Finite):
    """Accuracy on corrupted pictures: severities 1 to 5 of each corruption, and their mean."""

    n: PositiveCount = Field(description="Number of pictures for each corruption at each severity")
    mean: Fraction
    corruptions: dict[Name, Severities] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        shares = [share for severities in self.corruptions.values() for share in severities]
        _same("mean", self.mean, sum(shares) / len(shares), 1e-5)
        return self


def _totals(shares: Iterable[Share]) -> tuple[int, int]:
    """Return the sum of `n` and the sum of `correct` over all shares."""
    pairs = [(share.n, share.correct) for share in shares]
    return sum(n for n, _ in pairs), sum(correct for _, correct in pairs)


def _same(name: str, given: float, computed: float, tolerance: float = _TOLERANCE) -> None:
    if abs(given - computed) > tolerance:
        raise ValueError(f"{name}: is {given}, but the counts give {computed:.6f}")


def _counts(name: str, given: object, counted: object) -> None:
    if given != counted:
        raise ValueError(f"{name}: {given}, but the pictures give {counted}")
