"""Time an int8 model against its parent on this machine, and find what takes the int8 model's time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from service.bench.doctor.ab_timing import AbTiming, time_in_turn
from service.bench.doctor.model import ModelUnderTest
from service.bench.doctor.running import GAIN_WORTH_HAVING

Verdict = Literal["pays", "does not pay", "undecided"]

_KINDS = {
    "BiasGelu": "Gelu",
    "Elu": "Elu",
    "Erf": "Gelu",
    "FastGelu": "Gelu",
    "Gelu": "Gelu",
    "HardSigmoid": "HardSigmoid",
    "Mish": "Mish",
    "PRelu": "PRelu",
    "QuickGelu": "Sigmoid·Mul",
    "Sigmoid": "Sigmoid",
    "Softplus": "Softplus",
    "Swish": "Sigmoid·Mul",
    "Tanh": "Tanh",
}
"""Names of the activations that have no integer kernel, by the operator that ONNX Runtime runs in float."""
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_WORTH_NAMING = 0.1


@dataclass(frozen=True)
class Int8Gain:
    """An object says how much faster an int8 model is than its parent here, and what costs it time.

    `timing` compares the parent with the int8 model; its ratio is the speed-up. `activations` has the kinds
    of activations without an integer kernel, each with its share of the int8 model's time, the largest share
    first. `conversions` is the share of this time that conversion between integers and floating point takes.
    """

    timing: AbTiming
    parent_bytes: int
    int8_bytes: int
    activations: tuple[tuple[str, float], ...]
    conversions: float

    @property
    def verdict(self) -> Verdict:
        """Whether int8 pays: whether the 95 % interval of the speed-up is above 1 + GAIN_WORTH_HAVING.

        The verdict is `undecided` if the interval contains this value.
        """
        if self.timing.low > 1 + GAIN_WORTH_HAVING:
            return "pays"
        return "does not pay" if self.timing.high < 1 + GAIN_WORTH_HAVING else "undecided"

    def sentence(self, evidence: str) -> str:
        """Return one sentence: whether int8 pays here, the figures, and `evidence` about its predictions."""
        timing = self.timing
        start = {
            "pays": "int8 pays on this machine",
            "does not pay": "int8 does not pay on this machine",
            "undecided": "whether int8 pays on this machine cannot be told",
        }[self.verdict]
        return (
            f"{start}: {timing.ratio:.2f} times as fast "
            f"(95 % interval {timing.low:.2f} to {timing.high:.2f}; "
            f"{timing.a_ns / 1e6:.3g} ms in float, {timing.b_ns / 1e6:.3g} ms in int8), "
            f"{self.int8_bytes / 1e6:.3g} MB instead of {self.parent_bytes / 1e6:.3g} MB, {evidence}"
        )

    @property
    def eaten(self) -> str | None:
        """What reduces the gain, as a sentence.

        None if the int8 model has no activations in floating point, or if these and the conversions together
        take less than a tenth of its time.
        """
        share = sum(share for _, share in self.activations)
        if not self.activations or share + self.conversions < _WORTH_NAMING:
            return None
        named = ", ".join(f"{name} {share:.0%}" for name, share in self.activations)
        return (
            f"activations without an integer kernel take {share:.0%} of its time ({named}), and converting "
            f"to floating point and back {self.conversions:.0%}; a network with ReLU or ReLU6 would gain more"
        )


def measure_gain(parent: ModelUnderTest, int8: ModelUnderTest) -> Int8Gain:
    """Time both models in turn on one image and one thread, and profile the int8 model.

    This takes about two seconds of one core. Raises SessionError if a model does not load, and
    ModelUnavailable if a model does not run.
    """
    kinds = _kinds(int8)
    shares: defaultdict[str, float] = defaultdict(float)
    conversions = 0.0
    for operator in int8.operators:
        if operator.op in kinds:
            shares[kinds[operator.op]] += operator.share
        elif operator.op in _CONVERSIONS:
            conversions += operator.share
    return Int8Gain(
        timing=time_in_turn(parent.subject(), int8.subject()),
        parent_bytes=len(parent.content),
        int8_bytes=len(int8.content),
        activations=tuple(sorted(shares.items(), key=lambda pair: -pair[1])),
        conversions=conversions,
    )


def _kinds(int8: ModelUnderTest) -> dict[str, str]:
    """Return a mapping from types of operators in floating point to the activation that they are a part of.

    ONNX Runtime runs a hard swish as a hard sigmoid and a multiplication, both in floating point. All other
    multiplications of the model are in integers. So if the model has a hard swish, every multiplication in
    floating point is counted as a part of one.
    """
    if all(node.op != "HardSwish" for node in int8.graph.nodes):
        return _KINDS
    both = any(node.op == "HardSigmoid" for node in int8.graph.nodes)
    return _KINDS | {"Mul": "HardSwish", "HardSigmoid": "HardSwish and HardSigmoid" if both else "HardSwish"}
