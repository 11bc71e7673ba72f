"""Time per operator from ONNX Runtime's profiler, with multiply-accumulate counts."""

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
    """An object stands for one operator of the optimized graph, profiled in several runs of one image.

    `typical_us` is the interquartile mean of the operator's times in microseconds; a median could not be
    finer than the profile's resolution of 1 us. `share` is the operator's share of the time of all operators.
    `macs` is the number of its multiply-accumulates in one run.
    """

    name: str
    op: str
    arithmetic: Arithmetic
    typical_us: float
    share: float
    macs: int

    @property
    def gmacs_per_s(self) -> float | None:
        """10^9 multiply-accumulates per second.

        None if the operator has no multiply-accumulates, or if its time is rounded to zero.
        """
        return self.macs / self.typical_us / 1e3 if self.macs and self.typical_us else None


def measure_operators(
    content: bytes,
    *,
    spec: InputSpec | None = None,
    outputs: Sequence[str] | None = None,
    runs: int = 30,
    warm_up: int = 10,
) -> tuple[Operator, ...]:
    """Profile the model's operators on noise, one image on one thread.

    The model runs `warm_up + runs` times, and the first `warm_up` runs are not counted. The most expensive
    operator is returned first. `spec` and `outputs` are passed to `profiled_runs`: `spec` describes the
    input, and `outputs` names the outputs to compute. Raises SessionError if the model does not load.
    """
    as_written = _kernels(profiled_runs(content, 1, spec=spec, outputs=outputs, as_written=True))
    by_node: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in _kernels(profiled_runs(content, warm_up + runs, spec=spec, outputs=outputs)):
        by_node[event["args"]["node_index"]].append(event)
    typical = {
        node: statistics.mean(_middle_half([float(event["dur"]) for event in events[warm_up:]]))
        for node, events in by_node.items()
    }
    total = sum(typical.values()) or 1.0
    macs = _macs_of({node: events[0] for node, events in by_node.items()}, as_written)
    operators = [
        _operator(by_node[node][0], typical_us, typical_us / total, macs.get(node, 0))
        for node, typical_us in typical.items()
    ]
    return tuple(sorted(operators, key=lambda operator: -operator.typical_us))


def measure_ceiling(*, runs: int = 30) -> dict[Arithmetic, float]:
    """Measure GMAC/s of one core on large 1x1 convolutions, for each arithmetic.

    An operator far below this ceiling is not limited by arithmetic.
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
    """Return the multiply-accumulates of the operators that ran, by node.

    ONNX Runtime adapts the memory layout of a graph to the CPU. This renames operators, pads their shapes and
    inserts new operators. `as_run` has one profile event for each node of the adapted graph, and `as_written`
    has the events of the graph before this change, from which the shapes are taken. Operators of the types
    in _ARITHMETIC keep their order, so they are paired in this order. Batch norm is among them, because it
    may become a convolution; it has 0 multiply-accumulates. If the two graphs have different numbers of these
    operators, the result is empty.
    """
    ran = [node for node, event in as_run.items() if event["args"]["op_name"] in _ARITHMETIC]
    written = [event for event in as_written if event["args"]["op_name"] in _ARITHMETIC]
    if len(ran) != len(written):
        return {}
    return {node: _macs(event["args"]) for node, event in zip(ran, written, strict=True)}


def _kernels(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the operator runs among the events of a profile, in order."""
    return [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_RUNNING)]


def _middle_half(durations: Sequence[float]) -> Sequence[float]:
    """Return the durations without the fastest and the slowest quarter."""
    cut = len(durations) // 4
    return sorted(durations)[cut : len(durations) - cut]


def _operator(event: Mapping[str, Any], typical_us: float, share: float, macs: int) -> Operator:
    arguments = event["args"]
    kinds = {kind for input_type in arguments["input_type_shape"][:1] for kind in input_type}
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
    """Return the shapes of an operator's inputs or outputs.

    In `values`, as in a profile, each input or output is a mapping from its type to its shape.
    """
    return [next(iter(value.values()), []) for value in values]
