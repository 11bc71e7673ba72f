"""Which operators cost what: ONNX Runtime's profile, with multiply-accumulates put to it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from models.onnx_tools.graph import convolution_chain
from models.onnx_tools.macs import WEIGHT_INPUT, multiply_accumulates
from models.zoo.card import InputSpec
from service.inference.session import profiled_runs

Arithmetic = Literal["fp32", "int8"]

_ARITHMETIC = WEIGHT_INPUT.keys() | {"BatchNormalization"}
_RUNNING = "_kernel_time"


@dataclass(frozen=True)
class Operator:
    """One operator of the optimized graph, over several runs of one image.

    `typical_us` is the mean of the middle half of the runs: the profile counts whole microseconds, which a
    median would keep. `share` is of the sum over all operators; `macs` is 0 for what does not multiply and
    accumulate.
    """

    name: str
    op: str
    arithmetic: Arithmetic
    typical_us: float
    share: float
    macs: int

    @property
    def gmacs_per_s(self) -> float | None:
        """Multiply-accumulates per second, in 10^9; None where there are none or the time is too short."""
        return self.macs / self.typical_us / 1e3 if self.macs and self.typical_us else None


def measure_operators(
    content: bytes, *, spec: InputSpec | None = None, runs: int = 30, warm_up: int = 10
) -> tuple[Operator, ...]:
    """Run the model `warm_up + runs` times on noise, one image on one thread, with the profiler on.

    The most expensive operator first. `spec` describes the input, as in `profiled_runs`. SessionError when
    the model does not load.
    """
    as_written = _kernels(profiled_runs(content, 1, spec=spec, as_written=True))
    by_node: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in _kernels(profiled_runs(content, warm_up + runs, spec=spec)):
        by_node[event["args"]["node_index"]].append(event)
    typical = {
        node: statistics.mean(_middle_half([float(event["dur"]) for event in events[warm_up:]]))
        for node, events in by_node.items()
    }
    total = sum(typical.values()) or 1.0
    macs = _macs_of({node: events[0] for node, events in by_node.items()}, as_written)
    found = [
        _operator(by_node[node][0], typical_us, typical_us / total, macs.get(node, 0))
        for node, typical_us in typical.items()
    ]
    return tuple(sorted(found, key=lambda operator: -operator.typical_us))


def measure_ceiling(*, runs: int = 30) -> dict[Arithmetic, float]:
    """Measure what this CPU reaches on one core, in GMAC/s: large 1x1 convolutions in each arithmetic.

    An operator of a model that is far below it is not limited by arithmetic.
    """
    ceiling: dict[Arithmetic, float] = {}
    kinds: tuple[Arithmetic, ...] = ("fp32", "int8")
    for arithmetic in kinds:
        operators = measure_operators(convolution_chain(arithmetic), runs=runs)
        ceiling[arithmetic] = max(operator.gmacs_per_s or 0.0 for operator in operators)
    return ceiling


def _macs_of(
    as_run: Mapping[str, Mapping[str, Any]], as_written: Sequence[Mapping[str, Any]]
) -> dict[str, int]:
    """Multiply-accumulates of the operators that ran, from the shapes that the model has on paper.

    Layouts for one CPU rename operators, pad their shapes and insert others, but keep the order of those that
    do arithmetic: batch norm among them, which may become a convolution and then counts as nothing here.
    """
    ran = [node for node, event in as_run.items() if event["args"]["op_name"] in _ARITHMETIC]
    written = [event for event in as_written if event["args"]["op_name"] in _ARITHMETIC]
    if len(ran) != len(written):
        return {}
    return {node: _macs(event["args"]) for node, event in zip(ran, written, strict=True)}


def _kernels(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The runs of operators among the events of a profile, in their order."""
    return [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_RUNNING)]


def _middle_half(durations: Sequence[float]) -> Sequence[float]:
    """The durations without the slowest and the fastest quarter."""
    cut = len(durations) // 4
    return sorted(durations)[cut : len(durations) - cut]


def _operator(event: Mapping[str, Any], typical_us: float, share: float, macs: int) -> Operator:
    arguments = event["args"]
    kinds = {kind for each in arguments["input_type_shape"][:1] for kind in each}
    return Operator(
        name=event["name"].removesuffix(_RUNNING),
        op=arguments["op_name"],
        arithmetic="int8" if kinds and kinds <= {"uint8", "int8"} else "fp32",
        typical_us=typical_us,
        share=share,
        macs=macs,
    )


def _macs(arguments: Mapping[str, Any]) -> int:
    inputs, outputs = (_shapes(arguments[f"{side}_type_shape"]) for side in ("input", "output"))
    return multiply_accumulates(arguments["op_name"], inputs, next(iter(outputs), ()))


def _shapes(values: Sequence[Mapping[str, list[int]]]) -> list[list[int]]:
    """The shapes of the values that a profile lists, each by its type."""
    return [next(iter(value.values()), []) for value in values]
