"""Run all checks on a model, and compare its costliest operators with the ceiling of this CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from service.bench.doctor.findings import Finding
from service.bench.doctor.model import ModelUnderTest
from service.bench.doctor.operators import Arithmetic, Operator, measure_ceiling
from service.bench.doctor.running import (
    RunSettings,
    faster_in_openvino,
    int8_without_gain,
    spinning,
    threads_beyond_cores,
)
from service.bench.doctor.structure import batch_norm_unfolded, channels_off_alignment, qdq_not_fused
from service.bench.doctor.weights import denormal_weights, zeros_without_speed_up
from service.bench.fingerprint import Machine

MOST_EXPENSIVE = 10


@dataclass(frozen=True)
class Report:
    """A report holds the findings and the costliest operators of one model.

    `operators_in_all` is the number of all operators. `total_us` is the time of all operators in
    microseconds. `ceiling_gmacs_per_s` is the speed that one core reaches on large 1x1 convolutions,
    for each arithmetic. Its unit is 10^9 multiply-accumulates per second.
    """

    model: str
    findings: tuple[Finding, ...]
    operators: tuple[Operator, ...]
    operators_in_all: int
    total_us: float
    ceiling_gmacs_per_s: Mapping[Arithmetic, float]

    def of_ceiling(self, operator: Operator) -> float | None:
        """Return an operator's GMAC/s as a share of the ceiling of its arithmetic.

        Return None if the operator's GMAC/s is unknown.
        """
        rate = operator.gmacs_per_s
        return None if rate is None else rate / self.ceiling_gmacs_per_s[operator.arithmetic]


def diagnose(
    model: ModelUnderTest,
    parent: ModelUnderTest | None,
    machine: Machine,
    settings: RunSettings,
    ceiling: Mapping[Arithmetic, float] | None = None,
) -> Report:
    """Run every check on `model`. This takes several seconds of one core.

    `parent` is the fp32 model that an int8 model was made from; the int8 model is compared with it. `ceiling`
    is a result of `measure_ceiling` on this machine; by default, the ceiling is measured now. Raises
    SessionError if the model does not load, and UnreadableModel if its file cannot be parsed.
    """
    operators = model.operators
    return Report(
        model=model.card.name,
        findings=tuple(_findings(model, parent, machine, settings)),
        operators=operators[:MOST_EXPENSIVE],
        operators_in_all=len(operators),
        total_us=sum(operator.typical_us for operator in operators),
        ceiling_gmacs_per_s=measure_ceiling() if ceiling is None else ceiling,
    )


def _findings(
    model: ModelUnderTest, parent: ModelUnderTest | None, machine: Machine, settings: RunSettings
) -> Iterator[Finding]:
    yield from int8_without_gain(model, parent, machine)
    yield from qdq_not_fused(model)
    yield from channels_off_alignment(model, machine.isa)
    yield from batch_norm_unfolded(model)
    yield from denormal_weights(model)
    yield from zeros_without_speed_up(model)
    yield from threads_beyond_cores(settings, machine)
    yield from spinning(model, settings)
    yield from faster_in_openvino(model, settings)
