"""Cost of blocks by the formulas of their papers, without building them.

In the formulas, a block has M input channels, N output channels, W or S inner channels, G groups, and a
kernel of D_K x D_K. The formulas give the multiply-accumulates for one position of the map that a convolution
computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from models.blocks.arguments import check_groups, check_positive, share_of
from models.blocks.shape import Shape


@dataclass(frozen=True)
class Cost:
    """Cost of a block or network.

    `parameters` counts the trainable parameters, including those of batch norms that are folded later. `macs`
    counts the multiply-accumulates for one image. As in papers, only convolutions and linear layers count.
    """

    parameters: int
    macs: int


@dataclass(frozen=True)
class Convolution:
    """One `kernel` x `kernel` convolution from `inputs` to `outputs` channels, with `size` x `size` outputs.

    It costs D_K² M N / G multiply-accumulates per output position: a standard convolution has G = 1 group, a
    depthwise convolution has as many groups as channels (D_K² M), and a pointwise one has D_K = 1 (M N). If
    `normalised` is true, batch norm follows. It adds two parameters per channel, but no multiply-accumulates,
    since it is folded into the weights. If `biased` is true, the convolution has a bias, which adds one
    parameter per channel. Raises ValueError for numbers below 1, and for groups that do not divide the
    channels.
    """

    role: str
    kernel: int
    inputs: int
    outputs: int
    size: int
    groups: int = 1
    normalised: bool = True
    biased: bool = False

    def __post_init__(self) -> None:
        check_positive(kernel=self.kernel, size=self.size)
        check_groups(self.groups, inputs=self.inputs, outputs=self.outputs)

    @property
    def weights(self) -> int:
        return self.kernel**2 * self.inputs * self.outputs // self.groups

    @property
    def macs(self) -> int:
        return self.weights * self.size**2

    @property
    def parameters(self) -> int:
        return self.weights + self.outputs * (2 * self.normalised + self.biased)

    def formula(self) -> str:
        """Return the multiply-accumulates as a product, e.g. `3² · 64 · 56²` for a depthwise convolution."""
        factors = [f"{self.kernel}²"] if self.kernel > 1 else []
        factors += [str(self.inputs)]
        # In a depthwise convolution, outputs and groups cancel.
        if self.groups != self.outputs:
            factors += [str(self.outputs)]
        product = " · ".join([*factors, f"{self.size}²"])
        return product if self.groups in (1, self.outputs) else f"{product} / {self.groups}"


def total(convolutions: tuple[Convolution, ...]) -> Cost:
    """Return the total cost of several convolutions."""
    return Cost(
        sum(convolution.parameters for convolution in convolutions),
        sum(convolution.macs for convolution in convolutions),
    )


def standard(shape: Shape) -> tuple[Convolution, ...]:
    """Return the standard convolution, the baseline, with D_K² M N multiply-accumulates."""
    return (Convolution("standard", shape.kernel, shape.inputs, shape.outputs, shape.output_size),)


def depthwise_separable(shape: Shape) -> tuple[Convolution, ...]:
    """Return a depthwise and a pointwise convolution, with D_K² M + M N multiply-accumulates."""
    return (
        _depthwise("depthwise", shape, shape.inputs),
        _pointwise("pointwise", shape.inputs, shape.outputs, shape.output_size),
    )


def grouped(shape: Shape) -> tuple[Convolution, ...]:
    """Return the grouped convolution, with D_K² M N / G multiply-accumulates."""
    (convolution,) = standard(shape)
    return (replace(convolution, role="grouped", groups=shape.groups_of(shape.inputs)),)


def bottleneck(shape: Shape) -> tuple[Convolution, ...]:
    """Return the convolutions of a bottleneck with W inner channels.

    They are a pointwise convolution (M W), one with a larger kernel (D_K² W² / G) and another pointwise one
    (W N). If the block changes the shape, there is also a pointwise shortcut (M N).
    """
    width = share_of(shape.outputs, shape.ratio_or(0.25), name="ratio", of="outputs")
    groups = shape.groups_of(width)
    parts = [
        _pointwise("reduce", shape.inputs, width, shape.size),
        Convolution("middle", shape.kernel, width, width, shape.output_size, groups=groups),
        _pointwise("expand", width, shape.outputs, shape.output_size),
    ]
    if _changes(shape):
        parts.append(_pointwise("shortcut", shape.inputs, shape.outputs, shape.output_size))
    return tuple(parts)


def inverted_residual(shape: Shape) -> tuple[Convolution, ...]:
    """Return the convolutions of an inverted residual with W inner channels.

    They are a pointwise convolution (M W; left out if W = M), a depthwise one (D_K² W), those of
    squeeze-and-excitation (if the block has it), and another pointwise one (W N).
    """
    width = share_of(shape.inputs, shape.ratio_or(6), name="ratio", of="inputs")
    widening = () if width == shape.inputs else (_pointwise("expand", shape.inputs, width, shape.size),)
    return (
        *widening,
        _depthwise("depthwise", shape, width),
        *_gates(width, shape.squeezed),
        _pointwise("project", width, shape.outputs, shape.output_size),
    )


def shuffle(shape: Shape) -> tuple[Convolution, ...]:
    """Return the convolutions of a ShuffleNet V2 unit.

    With stride 1, half of the channels go through a pointwise, a depthwise and a pointwise convolution. With
    stride 2, all channels do, and they also go through a shortcut of a depthwise and a pointwise convolution.
    """
    half = shape.outputs // 2
    entering = half if shape.stride == 1 else shape.inputs
    shortcut = (
        ()
        if shape.stride == 1
        else (
            _depthwise("shortcut depthwise", shape, entering),
            _pointwise("shortcut pointwise", entering, half, shape.output_size),
        )
    )
    return (
        *shortcut,
        _pointwise("first pointwise", entering, half, shape.size),
        _depthwise("depthwise", shape, half),
        _pointwise("second pointwise", half, half, shape.output_size),
    )


def fire(shape: Shape) -> tuple[Convolution, ...]:
    """Return the convolutions of a Fire module with S squeezed channels.

    They are a pointwise convolution (M S) and then, side by side, a pointwise one (S N/2) and one with a
    larger kernel (D_K² S N/2). They have biases instead of batch norm.
    """
    squeezed = share_of(shape.outputs, shape.ratio_or(0.125), name="ratio", of="outputs")
    half, size = shape.outputs // 2, shape.output_size
    return tuple(
        replace(convolution, normalised=False, biased=True)
        for convolution in (
            _pointwise("squeeze", shape.inputs, squeezed, shape.size),
            _pointwise("expand pointwise", squeezed, half, size),
            Convolution("expand", shape.kernel, squeezed, half, size),
        )
    )


def ghost(shape: Shape) -> tuple[Convolution, ...]:
    """Return the convolutions of a Ghost bottleneck with W inner channels.

    It has two Ghost modules, the first from M to W channels, the second from W to N. Between them are a
    depthwise convolution if the stride is not 1, and squeeze-and-excitation if the block has it. If the block
    changes the shape, there is also a shortcut of a depthwise and a pointwise convolution.

    In a module from P to Q channels, a pointwise convolution computes half of the outputs, which costs P Q/2.
    A 3 x 3 depthwise convolution computes the other half from the first half, which costs 9 Q/2.
    """
    width = share_of(shape.inputs, shape.ratio_or(2), name="ratio", of="inputs")
    striding = () if shape.stride == 1 else (_depthwise("depthwise", shape, width),)
    shortcut = (
        (
            _depthwise("shortcut depthwise", shape, shape.inputs),
            _pointwise("shortcut pointwise", shape.inputs, shape.outputs, shape.output_size),
        )
        if _changes(shape)
        else ()
    )
    return (
        *_ghost_module("widen", shape.inputs, width, shape.size),
        *striding,
        *_gates(width, shape.squeezed),
        *_ghost_module("narrow", width, shape.outputs, shape.output_size),
        *shortcut,
    )


def _changes(shape: Shape) -> bool:
    return shape.stride != 1 or shape.inputs != shape.outputs


def _pointwise(role: str, inputs: int, outputs: int, size: int) -> Convolution:
    return Convolution(role, 1, inputs, outputs, size)


def _depthwise(role: str, shape: Shape, channels: int) -> Convolution:
    return Convolution(role, shape.kernel, channels, channels, shape.output_size, groups=channels)


def _gates(width: int, squeezed: int | None) -> tuple[Convolution, ...]:
    """Return the convolutions of squeeze-and-excitation: two pointwise ones with biases, on a map of 1 x 1.

    Return none if `squeezed` is None.
    """
    if squeezed is None:
        return ()
    return tuple(
        replace(convolution, normalised=False, biased=True)
        for convolution in (
            _pointwise("gates squeeze", width, squeezed, 1),
            _pointwise("gates excite", squeezed, width, 1),
        )
    )


def _ghost_module(role: str, inputs: int, outputs: int, size: int) -> tuple[Convolution, ...]:
    half = outputs // 2
    return (
        _pointwise(f"{role} primary", inputs, half, size),
        Convolution(f"{role} cheap", 3, half, half, size, groups=half),
    )


FORMULAS: dict[str, Callable[[Shape], tuple[Convolution, ...]]] = {
    "standard": standard,
    "depthwise-separable": depthwise_separable,
    "grouped": grouped,
    "bottleneck": bottleneck,
    "inverted-residual": inverted_residual,
    "shuffle": shuffle,
    "fire": fire,
    "ghost": ghost,
}
"""Function that returns a block's convolutions, by the block's name."""


def convolutions_of(block: str, shape: Shape) -> tuple[Convolution, ...]:
    """Return the convolutions of a block, without building the block.

    Raises ValueError for an unknown block, and for a shape that the block does not support.
    """
    if block not in FORMULAS:
        raise ValueError(f"block {block!r}: unknown (allowed: {', '.join(FORMULAS)})")
    return FORMULAS[block](shape)
