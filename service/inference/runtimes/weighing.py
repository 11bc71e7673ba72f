"""Result of weighing a model: how fast OpenVINO is beside ONNX Runtime, and how far their answers differ.

This module also has the rules by which OpenVINO counts as faster, and the answers as equal.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Self

from pydantic import AwareDatetime, Field

from models.zoo.card import Agreement, Card, Fraction, Interval, Name, Sha256
from models.zoo.frozen import Finite
from models.zoo.machine import this_machine
from models.zoo.verdicts import LEVEL, Estimate, bootstrap
from service.inference.cpu import core_budget
from service.inference.runtimes.base import RUNTIMES
from service.inference.runtimes.opening import runtime_version, session_options
from service.inference.runtimes.openvino import FloatPrecision

LEAST_SAME = 0.95
"""Smallest share of pictures that must have the same answer (top-1 class, or objects)."""
LEAST_PICTURES = 2
"""Smallest number of pictures that must count. With fewer pictures, the answers never count as equal."""
MOST_DEVIATION = 0.5
"""Largest typical difference of a picture's logits with which answers count as equal. It is in standard
deviations of the picture's logits. Networks in bf16 and int8 networks differ by up to 0.4 in OpenVINO
(docs/runtimes.md)."""
MOST_SCORE_DIFFERENCE = 0.05
"""Largest typical difference of the scores of a detector's objects with which answers count as equal."""
LOOK_LEVEL = LEVEL / 2
LOOK_CONFIDENCE = 0.975
"""Significance level of each look at the rounds, and confidence of the interval that a look gives. There are
at most two looks. Each look has half the usual probability of error, so that the two together err no more
often than a single look would at LEVEL and with a 95 % interval."""
LEAST_GAIN = 0.03
"""Smallest gain in speed for which OpenVINO counts as faster. Equal sessions differ by up to about 1 % from
launch to launch (docs/runtimes.md), and the rounds of one launch cannot show this."""


class Conditions(Finite):
    """Facts that a weighing depends on. If one of them changes, the model is weighed again."""

    sha256: Sha256
    card: Sha256 = Field(description="Hash of the card's `input`, `outputs`, `detection` and `precision`")
    cpu: str
    cpu_id: str
    instruction_set: tuple[str, ...]
    cores: int
    threads: int = Field(description="Number of runs under way at a time")
    options: dict[str, str] = Field(description="Options of the sessions of both runtimes")
    onnxruntime: str
    openvino: str

    @classmethod
    def here(cls, card: Card, threads: int) -> Self:
        """Return the conditions on this machine for the model with this card, in a service with `threads`.

        Raises PackageNotFoundError.
        """
        machine = this_machine()
        facts = card.model_dump(mode="json", include={"input", "outputs", "detection", "precision"})
        return cls(
            sha256=card.file.sha256,
            card=hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(),
            cpu=machine.cpu,
            cpu_id=machine.cpu_id,
            instruction_set=machine.instruction_set,
            cores=core_budget(),
            threads=threads,
            options={key: value for name in RUNTIMES for key, value in session_options(name).items()},
            onnxruntime=runtime_version("onnxruntime"),
            openvino=runtime_version("openvino"),
        )


class Answers(Finite):
    """How far the answers of two runtimes differ on the same pictures."""

    pictures: str = Field(
        description="The pictures, in words", examples=["4 bundled photographs, 28 of noise"]
    )
    n: int = Field(
        ge=0,
        description="Number of pictures that count. For a detector, these are the pictures on which at least "
        "one runtime found objects",
    )
    same: int = Field(ge=0, description="Pictures with the same top-1 class, or the same objects")
    deviation: float = Field(
        ge=0,
        description="Median over the pictures. For a classifier, of a picture's largest difference of a "
        "logit, in standard deviations of its logits; photographs and noise have a median each, and the "
        "larger one is given. For a detector, of a picture's largest difference of an object's score",
    )
    limit: float = Field(description="Largest deviation with which the answers count as equal")

    @property
    def agree(self) -> bool:
        """Whether the answers count as equal."""
        enough = self.n >= LEAST_PICTURES
        return enough and self.same >= LEAST_SAME * self.n and self.deviation <= self.limit

    def __str__(self) -> str:
        """Return the result in words."""
        if self.n < LEAST_PICTURES:
            return (
                f"answers cannot be compared: too few pictures that count: {self.n} (at least "
                f"{LEAST_PICTURES} are needed) of {self.pictures}"
            )
        words = "agree" if self.agree else "do not agree"
        return (
            f"answers {words}: {self.same} of {self.n} the same, typical deviation {self.deviation:.2g} "
            f"(limit: {self.limit:g})"
        )


class Weighing(Finite):
    """The result of weighing a model: how OpenVINO's speed and answers compare with ONNX Runtime's.

    `problem`: the reason why the two could not be compared completely. It is None if they were compared
    completely. If there is a problem, `answers` shows which: it is None if one of the runtimes cannot run the
    model, and it is set if the model is too slow to be timed.
    """

    model: Name
    conditions: Conditions
    floats: FloatPrecision | None = Field(description="Type of the float operators, if a request chose one")
    precision: str = Field(default="", description="Precision in which OpenVINO ran the network")
    onnxruntime_ms: float = Field(default=0, ge=0, description="Median time of a run")
    openvino_ms: float = Field(default=0, ge=0, description="Median time of a run")
    speedup: float = Field(default=0, ge=0, description="OpenVINO's speed divided by ONNX Runtime's")
    low: float = Field(default=0, ge=0, description="Lower end of its 95 % interval in this process")
    high: float = Field(default=0, ge=0, description="Upper end of its 95 % interval in this process")
    faster: bool = Field(default=False, description="Whether OpenVINO is faster, see `is_faster`")
    answers: Answers | None = None
    problem: str | None = None
    refused: bool = Field(default=False, description="Whether OpenVINO cannot run the model")
    at: AwareDatetime

    @property
    def switches(self) -> bool:
        """Whether `auto` runs the model in OpenVINO."""
        return self.faster and self.answers is not None and self.answers.agree

    def __str__(self) -> str:
        """Return the result in words."""
        if self.answers is None:
            return f"cannot be weighed: {self.problem}"
        if self.problem is not None:
            return f"not timed: {self.problem}; {self.answers}"
        verdict = "faster" if self.faster else "not faster"
        return (
            f"OpenVINO is {verdict}: {self.speedup:.2f} times ONNX Runtime's speed ({self.low:.2f} to "
            f"{self.high:.2f}); {self.answers}"
        )

    def agreement(self, card: Card) -> Agreement | None:
        """Return how far OpenVINO's answers agree with the answers on which the accuracy was measured.

        Return None if there are no answers, or if too few pictures count. If the card's accuracy is itself
        inherited from a parent, there are two steps: from the parent to the card's precision, and from there
        to OpenVINO. The value and the lower end of the interval assume the worst case, in which the
        disagreements of both steps add up. The upper end assumes the best case, in which the second step
        undoes changes of the first one, so that only the difference of the disagreements is left.
        """
        if self.answers is None or self.answers.n < LEAST_PICTURES:
            return None
        n, same = self.answers.n, self.answers.same
        value, interval = same / n, Interval.wilson(same, n)
        compared = "top-1" if card.detection is None else "objects"
        how = (
            f"{compared} of OpenVINO {self.conditions.openvino} in {self.precision} and ONNX Runtime "
            f"{self.conditions.onnxruntime} in {card.precision} on {self.answers.pictures}"
        )
        parent = card.agreement
        if parent is None or (card.accuracy is not None and card.accuracy.kind != "inherited"):
            return Agreement(parent=card.name, value=round(value, 4), n=n, interval=interval, how=how)
        return Agreement(
            parent=parent.parent,
            value=_both(value, parent.value),
            n=min(n, parent.n),
            interval=Interval(
                low=_both(interval.low, parent.interval.low),
                high=_at_most(interval, parent.interval),
                method="sum and difference of two disagreements",
            ),
            how=f"{parent.how}; {how}",
        )


def _both(one: Fraction, other: Fraction) -> Fraction:
    """Return the smallest possible agreement of A with C, given that of A with B and that of B with C."""
    return round(max(0.0, one + other - 1), 4)


def _at_most(one: Interval, other: Interval) -> Fraction:
    """Return the largest possible agreement of A with C, given intervals of A with B and of B with C."""
    return round(1 - max(0.0, one.low - other.high, other.low - one.high), 4)


def look(ratios: Sequence[float]) -> Estimate:
    """Return the estimate of the speed-up's logarithm, with an interval of the confidence LOOK_CONFIDENCE.

    `ratios`: logarithm of the speed-up in each round.
    """
    return bootstrap({0: ratios}, confidence=LOOK_CONFIDENCE)


def is_faster(estimate: Estimate) -> bool:
    """Return whether OpenVINO counts as faster. `estimate` is a result of `look`."""
    return estimate.p < LOOK_LEVEL and estimate.mean >= math.log1p(LEAST_GAIN)
