"""Faults of the weights: denormal numbers, and zeros that save nothing; measured without the fault too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.graph import change_weights
from service.bench.doctor.ab_timing import AbTiming, time_in_turn
from service.bench.doctor.findings import Finding, some
from service.bench.doctor.model import ModelUnderTest

SPARSE = 0.3
"""Share of zeros from which a weight counts as pruned; trained and quantized weights have far fewer."""
_MIN_ELEMENTS = 64
_SMALLEST_NORMAL = np.float32(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class _Fault:
    name: str
    count: int
    size: int


def denormal_weights(model: ModelUnderTest) -> Iterator[Finding]:
    """Numbers so close to zero that CPUs compute with them many times slower."""
    faults = _faults(model, _denormal)
    if not faults:
        return
    timed = _without(model, _denormal, lambda values, where: np.copyto(values, 0, where=where))
    count = sum(fault.count for fault in faults)
    yield Finding(
        slug="denormal-weights",
        title="Denormal weights",
        evidence=f"{count} weights in {some([fault.name for fault in faults])} are closer to zero than "
        f"{_SMALLEST_NORMAL:.2g}; with zeros in their place the model runs {timed.ratio:.2f} times as fast: "
        f"{timed}",
        remedy="set weights below 1e-30 to zero before exporting: they change no prediction",
    )


def zeros_without_speed_up(model: ModelUnderTest) -> Iterator[Finding]:
    """Unstructured sparsity: ONNX Runtime multiplies by zero as slowly as by any other number."""
    faults = [fault for fault in _faults(model, _zero) if fault.count >= SPARSE * fault.size]
    if not faults:
        return
    names = {fault.name for fault in faults}
    timed = _without(model, _zero, _fill_in, names)
    share = sum(fault.count for fault in faults) / sum(fault.size for fault in faults)
    saved = 1 - timed.ratio
    gain = f"the zeros save {saved:.0%} of the time" if saved > 0 else "the zeros save no time"
    yield Finding(
        slug="zeros-without-speed-up",
        title="Zeros without speed-up",
        evidence=f"{share:.0%} of the weights in {some([fault.name for fault in faults])} are zero; "
        f"against other numbers in their place {gain}: {timed}",
        remedy="ONNX Runtime does not skip zeros: remove whole channels and export the smaller network",
    )


_Choice = Callable[[NDArray[np.generic]], NDArray[np.bool_]]


def _denormal(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    if values.dtype != np.float32:
        return np.zeros(values.shape, np.bool_)
    return np.asarray((values != 0) & (np.abs(values) < _SMALLEST_NORMAL))


def _zero(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    # 8-bit weights are symmetric around 0; small tensors (biases, scales, shapes) are no weights.
    if values.dtype not in (np.float32, np.int8) or values.ndim < 2 or values.size < _MIN_ELEMENTS:
        return np.zeros(values.shape, np.bool_)
    return np.asarray(values == 0)


def _fill_in(values: NDArray[np.generic], where: NDArray[np.bool_]) -> None:
    others = values[~where]
    np.copyto(values, np.resize(others, values.shape) if others.size else values.dtype.type(1), where=where)


def _faults(model: ModelUnderTest, choose: _Choice) -> list[_Fault]:
    found = []
    for weight in model.graph.weights.values():
        if weight.values is not None:
            count = int(np.count_nonzero(choose(weight.values)))
            if count:
                found.append(_Fault(weight.name, count, weight.values.size))
    return sorted(found, key=lambda fault: -fault.count)


def _without(
    model: ModelUnderTest,
    choose: _Choice,
    change: Callable[[NDArray[np.generic], NDArray[np.bool_]], None],
    names: set[str] | None = None,
) -> AbTiming:
    """Time the model against itself with the chosen weights changed."""

    def change_chosen(name: str, values: NDArray[np.generic]) -> None:
        if names is None or name in names:
            change(values, choose(values))

    return time_in_turn(model.subject(), model.subject(change_weights(model.content, change_chosen)))
