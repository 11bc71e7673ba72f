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
"""Names of activations without an integer kernel, by the operator that ONNX Runtime runs in float."""
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_WORTH_NAMING = 0.1


@dataclass(frozen=True)
class Int8Gain:
    """Gain of int8 on this machine.

    `timing`: of the parent and the int8 model; its ratio is the speed-up. `activations`: share of the int8
    model's time for each kind of activation without an integer kernel, the largest first. `conversions`:
    share for converting between integers and floating point.
    """

    timing: AbTiming
    parent_bytes: int
    int8_bytes: int
    activations: tuple[tuple[str, float], ...]
    conversions: float

    @property
    def verdict(self) -> Verdict:
        """Whether the speed-up is worth it, by its 95 % interval."""
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
        """What reduces the gain, as a sentence; None if activations in floating point cost little."""
        share = sum(share for _, share in self.activations)
        if not self.activations or share + self.conversions < _WORTH_NAMING:
            return None
        named = ", ".join(f"{name} {share:.0%}" for name, share in self.activations)
        return (
            f"activations without an integer kernel take {share:.0%} of its time ({named}), and converting "
            f"to floating point and back {self.conversions:.0%}; a network with ReLU or ReLU6 would gain more"
        )


def measure_gain(parent: ModelUnderTest, int8: ModelUnderTest) -> Int8Gain:
    """Time both models in turn, one image on one thread, and profile the int8 model.

    Takes about two seconds of one core. Raises SessionError and ModelUnavailable for a model that does not
    load or run.
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
    """Return the name of the activation that each operator belongs to.

    ONNX Runtime runs a hard swish as a hard sigmoid and a multiplication. All other multiplications of the
    model are in integers.
    """
    if all(node.op != "HardSwish" for node in int8.graph.nodes):
        return _KINDS
    both = any(node.op == "HardSigmoid" for node in int8.graph.nodes)
    return _KINDS | {"Mul": "HardSwish", "HardSigmoid": "HardSwish and HardSigmoid" if both else "HardSwish"}
