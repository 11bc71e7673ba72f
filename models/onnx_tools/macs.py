"""Count the multiply-accumulates of one operator from the shapes of its inputs and its output."""

from __future__ import annotations

import math
from collections.abc import Sequence

WEIGHT_INPUT = {
    "Conv": 1,
    "FusedConv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "FusedGemm": 1,
    "MatMul": 1,
    "FusedMatMul": 1,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
}
"""Operators that multiply and accumulate, each with the index of its weight among its inputs."""
_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvInteger", "QLinearConv"})


def multiply_accumulates(op: str, inputs: Sequence[Sequence[int]], output: Sequence[int]) -> int:
    """Return the number of multiply-accumulates in one run of operator `op`, 0 if the operator has none.

    `inputs` has the shapes of all its inputs, and `output` is the shape of its first output.
    """
    at = WEIGHT_INPUT.get(op)
    if at is None or at >= len(inputs):
        return 0
    weight = inputs[at]
    if op == "ConvTranspose":  # weight (C, M / groups, kH, kW)
        return math.prod(inputs[0]) * math.prod(weight[1:])
    if op in _CONVOLUTIONS:  # weight (M, C / groups, kH, kW)
        return math.prod(output) * math.prod(weight[1:])
    if len(weight) < 2:  # a vector: its length is not a side of the output
        return math.prod(output) * math.prod(weight)
    # One of the weight's last two sides is the output's last side; the products are summed over the other.
    return math.prod(output) * (math.prod(weight[-2:]) // output[-1] if output and output[-1] else 0)
