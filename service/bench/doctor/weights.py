"""Checks of the weights: denormal numbers, and zeros that give no speed-up.

Each check times the model with these values, and with other values in their place.
"""

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
"""A weight with at least this share of zeros counts as pruned.

Trained and quantized weights that were not pruned have far fewer zeros.
"""
_MIN_ELEMENTS = 64
_SMALLEST_NORMAL = np.float32(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class _Affected:
    name: str
    count: int
    size: int


def denormal_weights(model: ModelUnderTest) -> Iterator[Finding]:
    """Find denormal weights, with which CPUs compute many times slower."""
    affected = _affected(model, _denormal)
    if not affected:
        return
    timed = _without(model, _denormal, lambda values, where: np.copyto(values, 0, where=where))
    count = sum(weight.count for weight in affected)
    yield Finding(
        slug="denormal-weights",
        title="Denormal weights",
        evidence=f"{count} weights in {some([weight.name for weight in affected])} are closer to zero than "
        f"{_SMALLEST_NORMAL:.2g}; with zeros in their place the model runs {timed.ratio:.2f} times as fast: "
        f"{timed}",
        remedy="set weights below 1e-30 to zero before exporting: they change no prediction",
    )


def zeros_without_speed_up(model: ModelUnderTest) -> Iterator[Finding]:
    """Find weights with many scattered zeros, from which ONNX Runtime does not gain."""
    affected = [weight for weight in _affected(model, _zero) if weight.count >= SPARSE * weight.size]
    if not affected:
        return
    names = {weight.name for weight in affected}
    timed = _without(model, _zero, _fill_in, names)
    share = sum(weight.count for weight in affected) / sum(weight.size for weight in affected)
    saved = 1 - timed.ratio
    gain = f"the zeros save {saved:.0%} of the time" if saved > 0 else "the zeros save no time"
    yield Finding(
        slug="zeros-without-speed-up",
        title="Zeros without speed-up",
        evidence=f"{share:.0%} of the weights in {some([weight.name for weight in affected])} are zero; "
        f"compared with other numbers in their place {gain}: {timed}",
        remedy="ONNX Runtime does not skip zeros: remove whole channels and export the smaller network",
    )


_Choice = Callable[[NDArray[np.generic]], NDArray[np.bool_]]


def _denormal(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    if values.dtype != np.float32:
        return np.zeros(values.shape, np.bool_)
    return np.asarray((values != 0) & (np.abs(values) < _SMALLEST_NORMAL))


def _zero(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    # 8-bit weights are symmetric around 0; small tensors are biases, scales and shapes, not weights.
    if values.dtype not in (np.float32, np.int8) or values.ndim < 2 or values.size < _MIN_ELEMENTS:
        return np.zeros(values.shape, np.bool_)
    return np.asarray(values == 0)


def _fill_in(values: NDArray[np.generic], where: NDArray[np.bool_]) -> None:
    others = values[~where]
    np.copyto(values, np.resize(others, values.shape) if others.size else values.dtype.type(1), where=where)


def _affected(model: ModelUnderTest, choose: _Choice) -> list[_Affected]:
    affected = []
    for weight in model.graph.weights.values():
        if weight.values is not None:
            count = int(np.count_nonzero(choose(weight.values)))
            if count:
                affected.append(_Affected(weight.name, count, weight.values.size))
    return sorted(affected, key=lambda weight: -weight.count)


def _without(
    model: ModelUnderTest,
    choose: _Choice,
    change: Callable[[NDArray[np.generic], NDArray[np.bool_]], None],
    names: set[str] | None = None,
) -> AbTiming:
    """Time the model against a copy of it in which some values of the weights are changed.

    `choose` marks the values to change in a weight, and `change` changes them. `names` are the weights to
    change; None means all weights.
    """

    def change_chosen(name: str, values: NDArray[np.generic]) -> None:
        if names is None or name in names:
            change(values, choose(values))

    return time_in_turn(model.subject(), model.subject(change_weights(model.content, change_chosen)))
