"""Describe the cost and the latency of a block, beside the cost and the latency of a standard convolution."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.architectures.initialise import randomise
from models.blocks.catalogue import build
from models.blocks.shape import Shape
from models.cost.formulas import Convolution, convolutions_of, total
from models.cost.latency import Effort, Measurement, measure, measurement, normalised, write_untrained
from models.export.to_onnx import block_to_onnx

BASELINE = "standard"


def explain(block: str, shape: Shape, effort: Effort) -> str:
    """Return a text about the formula, the cost and the measured latency of a block.

    The standard convolution is described beside it. The text states that the weights are random.
    Raises ValueError for an unknown block or an invalid shape, and ModelsError if the benchmark fails.
    """
    names = list(dict.fromkeys((block, BASELINE)))
    costs = {name: convolutions_of(name, shape) for name in names}
    lines = [
        f"{shape.inputs} -> {shape.outputs} channels, kernel {shape.kernel} x {shape.kernel}, stride "
        f"{shape.stride}, map {shape.size} x {shape.size} -> {shape.output_size} x {shape.output_size}"
    ]
    for name in names:
        lines += ["", *_cost_lines(name, costs[name])]
    macs = {name: total(costs[name]).macs for name in names}
    weights = {name: sum(part.weights for part in costs[name]) for name in names}
    if block != BASELINE:
        lines += [
            "",
            f"{block} / {BASELINE}: {macs[block] / macs[BASELINE]:.3f} of the multiply-accumulates, "
            f"{weights[block] / weights[BASELINE]:.3f} of the weights{_textbook_ratio(block, shape)}",
        ]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            _write_block(Path(folder) / name, name, shape)
        measured = measurement(
            measure(Path(folder), [BASELINE, *(n for n in names if n != BASELINE)], effort)
        )
    lines += ["", *_latency_lines(measured, macs)]
    return "\n".join(lines) + "\n"


def _cost_lines(name: str, parts: tuple[Convolution, ...]) -> list[str]:
    width = max(len(part.formula()) for part in parts)
    role = max(len("total"), *(len(part.role) for part in parts))
    rows = [
        f"  {part.role:<{role}}  {part.formula():<{width}} = "
        f"{_digits(part.macs):>15}  {_digits(part.weights):>11}"
        for part in parts
    ]
    cost = total(parts)
    weights = sum(part.weights for part in parts)
    extra = cost.parameters - weights
    sums = f"  {'total':<{role}}  {'':<{width}}   {_digits(cost.macs):>15}  {_digits(weights):>11}"
    header = f"{name:<{role + width + 4}}   {'multiply-accs':>15}  {'weights':>11}"
    return [header, *rows, f"{sums}  and {_digits(extra)} of batch norm or biases"]


def _textbook_ratio(block: str, shape: Shape) -> str:
    """Return the textbook formula for the block's cost divided by that of the standard convolution.

    Return an empty text for blocks without such a formula.
    """
    if block == "depthwise-separable":
        return f" (1/N + 1/D_K² = 1/{shape.outputs} + 1/{shape.kernel**2})"
    if block == "grouped":
        return f" (1/G = 1/{shape.groups_of(shape.inputs)})"
    return ""


def _write_block(folder: Path, name: str, shape: Shape) -> None:
    """Write the block with random weights into `folder` as a model that `weighin bench` can measure."""
    block = build(name, shape).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, shape.inputs, shape.size, shape.size, generator=generator)
    randomise(block, 0, images)
    divisor = next(n for n in range(math.isqrt(shape.inputs), 0, -1) if shape.inputs % n == 0)
    height, width = shape.inputs // divisor * shape.size, divisor * shape.size
    model = block_to_onnx(block, shape.inputs, shape.size, (height, width))
    cost = total(convolutions_of(name, shape))
    write_untrained(
        folder,
        model.SerializeToString(),
        normalised(1, height, width),
        classes=2,
        parameters=cost.parameters,
        macs=cost.macs,
    )


def _latency_lines(measured: Measurement, macs: dict[str, int]) -> list[str]:
    lines = [
        f"latency with random weights (untrained), {measured.runtime}, fp32, one thread, "
        f"{measured.rounds} rounds of {measured.runs} runs, interleaved:"
    ]
    latencies = {name: measured.latency[name] for name in macs}
    width = max(map(len, latencies))
    for name, latency in latencies.items():
        lines.append(
            f"  {name:<{width}}  p50 {latency.p50_ms:.4f} ms  "
            f"(rounds {latency.low_ms:.4f} to {latency.high_ms:.4f})"
        )
    if len(latencies) == 2:
        block, baseline = latencies
        lines.append(
            f"  {latencies[baseline].p50_ms / latencies[block].p50_ms:.1f} times as fast with "
            f"{macs[baseline] / macs[block]:.1f} times fewer multiply-accumulates"
        )
    return lines + [f"  unreliable: {doubt}" for doubt in measured.doubts]


def _digits(number: int) -> str:
    return f"{number:,}".replace(",", " ")


VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("standard", "standard", {}),
    ("depthwise-separable", "depthwise-separable", {}),
    ("grouped, 4 groups", "grouped", {"groups": 4}),
    ("bottleneck, inner width 1/4", "bottleneck", {}),
    ("bottleneck, inner width 1/4, depthwise", "bottleneck", {"groups": "depthwise"}),
    ("bottleneck, inner width 1/2, 4 groups", "bottleneck", {"ratio": 0.5, "groups": 4}),
    ("inverted-residual, inner width 3 times the outer", "inverted-residual", {"ratio": 3}),
    ("inverted-residual, inner width 6 times the outer", "inverted-residual", {"ratio": 6}),
    ("the same, with squeeze-and-excitation to 1/4", "inverted-residual", {"ratio": 6, "squeezed": 192}),
    ("shuffle", "shuffle", {}),
    ("fire, squeezed to 1/8", "fire", {}),
    ("ghost, inner width 2 times the outer", "ghost", {}),
)
"""The rows of the table.

Each has a description, the block's name, and the fields of the given shape that are changed for this row.
"""


def table(shape: Shape) -> str:
    """Return a Markdown table of what every block costs at the given shape, according to the formulas."""
    baseline = total(convolutions_of(BASELINE, shape))
    rows = [
        "| block | formula | parameters | multiply-accumulates | relative to the standard convolution |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, block, choice in VARIANTS:
        parts = convolutions_of(block, replace(shape, **choice))
        cost = total(parts)
        terms = " + ".join(part.formula() for part in parts)
        rows.append(
            f"| {name} | {terms} | {_digits(cost.parameters)} | {_digits(cost.macs)} "
            f"| {cost.macs / baseline.macs:.1%} |"
        )
    return "\n".join(rows) + "\n"
