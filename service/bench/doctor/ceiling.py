"""What this CPU reaches on one core: large 1x1 convolutions, in float and in 8 bits, measured on the spot."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from service.bench.doctor.operators import Arithmetic, measure_operators
from service.bench.doctor.wire import field

CHANNELS, SIZE, LAYERS = 256, 28, 4
"""51 M multiply-accumulates a layer: weights and activations of one stay in the second-level cache."""

_FLOAT, _UINT8, _INT8, _INT32 = 1, 2, 3, 6


def measure_ceiling(*, runs: int = 30) -> dict[Arithmetic, float]:
    """GMAC/s of one core on the fastest of a few equal large 1x1 convolutions, for each arithmetic.

    It is the yardstick for the operators of a model: what is far below it is not limited by arithmetic.
    """
    found: dict[Arithmetic, float] = {}
    for arithmetic, content in (("fp32", float_chain()), ("int8", int8_chain())):
        reached = [
            operator.gmacs_per_s for operator in measure_operators(content, runs=runs) if operator.macs
        ]
        found[arithmetic] = max(each for each in reached if each is not None)  # type: ignore[index]
    return found


def float_chain() -> bytes:
    """An ONNX model of some 1x1 convolutions, float32."""
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(LAYERS):
        weight = random.normal(0, 1 / np.sqrt(CHANNELS), (CHANNELS, CHANNELS, 1, 1)).astype("<f4")
        weights.append(_tensor(f"w{layer}", _FLOAT, weight))
        nodes.append(_node("Conv", [f"x{layer}", f"w{layer}"], f"x{layer + 1}"))
    return _model(nodes, weights, f"x{LAYERS}")


def int8_chain() -> bytes:
    """An ONNX model of some 1x1 convolutions of 8-bit activations and weights, between float ends."""
    random = np.random.default_rng(0)
    nodes = [_node("QuantizeLinear", ["x0", "scale", "zero"], "q0")]
    weights = [
        _tensor("scale", _FLOAT, np.array(0.05, "<f4")),
        _tensor("zero", _UINT8, np.array(128, "u1")),
        _tensor("w_scale", _FLOAT, np.array(0.01, "<f4")),
        _tensor("w_zero", _INT8, np.array(0, "i1")),
    ]
    for layer in range(LAYERS):
        weight = random.integers(-127, 128, (CHANNELS, CHANNELS, 1, 1)).astype("i1")
        weights.append(_tensor(f"w{layer}", _INT8, weight))
        inputs = [f"q{layer}", "scale", "zero", f"w{layer}", "w_scale", "w_zero", "scale", "zero"]
        nodes.append(_node("QLinearConv", inputs, f"q{layer + 1}"))
    nodes.append(_node("DequantizeLinear", [f"q{LAYERS}", "scale", "zero"], "y"))
    return _model(nodes, weights, "y")


# Field numbers of onnx.proto, as in service.bench.doctor.onnx_graph.


def _model(nodes: Iterable[bytes], weights: Iterable[bytes], output: str) -> bytes:
    graph = [field(1, node) for node in nodes]
    graph += [field(2, "ceiling"), *(field(5, weight) for weight in weights)]
    graph += [field(11, _value("x0")), field(12, _value(output))]
    opset = field(2, 17)
    return field(1, 8) + field(8, opset) + field(7, b"".join(graph))


def _node(op: str, inputs: Iterable[str], output: str) -> bytes:
    named = b"".join(field(1, name) for name in inputs)
    return named + field(2, output) + field(3, f"{output}.{op}") + field(4, op)


def _tensor(name: str, kind: int, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    dimensions = b"".join(field(1, size) for size in values.shape)
    return dimensions + field(2, kind) + field(8, name) + field(9, values.tobytes())


def _value(name: str) -> bytes:
    shape = b"".join(field(1, field(1, size)) for size in (1, CHANNELS, SIZE, SIZE))
    return field(1, name) + field(2, field(1, field(1, _FLOAT) + field(2, shape)))
