"""All checks on one model, and its most expensive operators beside what this CPU reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from service.bench.doctor.ceiling import measure_ceiling
from service.bench.doctor.findings import Finding
from service.bench.doctor.operators import Arithmetic, Operator
from service.bench.doctor.patient import Patient
from service.bench.doctor.running import RunSettings, int8_without_gain, spinning, threads_beyond_cores
from service.bench.doctor.structure import batch_norm_unfolded, channels_off_alignment, qdq_not_fused
from service.bench.doctor.weights import denormal_weights, zeros_without_speed_up
from service.bench.fingerprint import Machine

MOST_EXPENSIVE = 10


@dataclass(frozen=True)
class Diagnosis:
    """What was found. `ceiling_gmacs_per_s`: what one core reaches on large 1x1 convolutions."""

    model: str
    findings: tuple[Finding, ...]
    operators: tuple[Operator, ...]
    operators_in_all: int
    total_us: float
    ceiling_gmacs_per_s: Mapping[Arithmetic, float]

    def of_ceiling(self, operator: Operator) -> float | None:
        """The share of the ceiling of its own arithmetic that an operator reaches."""
        reached = operator.gmacs_per_s
        return None if reached is None else reached / self.ceiling_gmacs_per_s[operator.arithmetic]


def examine(
    patient: Patient,
    parent: Patient | None,
    machine: Machine,
    settings: RunSettings,
    ceiling: Mapping[Arithmetic, float] | None = None,
) -> Diagnosis:
    """Run every check on `patient`; it takes some seconds of one core.

    `parent`: the float model that an int8 one was made of, to be measured against. `ceiling`: measured
    before, for another model on this machine; by default it is measured now. Raises SessionError for
    a model that does not load, and Malformed for one whose file cannot be read.
    """
    operators = patient.operators
    return Diagnosis(
        model=patient.card.name,
        findings=tuple(_findings(patient, parent, machine, settings)),
        operators=operators[:MOST_EXPENSIVE],
        operators_in_all=len(operators),
        total_us=sum(operator.typical_us for operator in operators),
        ceiling_gmacs_per_s=measure_ceiling() if ceiling is None else ceiling,
    )


def _findings(
    patient: Patient, parent: Patient | None, machine: Machine, settings: RunSettings
) -> Iterator[Finding]:
    yield from int8_without_gain(patient, parent, machine)
    yield from qdq_not_fused(patient)
    yield from channels_off_alignment(patient, machine.isa)
    yield from batch_norm_unfolded(patient)
    yield from denormal_weights(patient)
    yield from zeros_without_speed_up(patient)
    yield from threads_beyond_cores(settings, machine)
    yield from spinning(patient, settings)
