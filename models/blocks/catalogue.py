"""Registry of blocks by name, each built from a Shape."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from models.blocks.bottleneck import Bottleneck
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.depthwise_separable import DepthwiseSeparable
from models.blocks.fire import Fire
from models.blocks.ghost import GhostBottleneck
from models.blocks.grouped import GroupedConv
from models.blocks.inverted_residual import InvertedResidual
from models.blocks.shape import Shape
from models.blocks.shuffle import ShuffleUnit


def _standard(shape: Shape) -> nn.Module:
    return ConvNormAct(shape.inputs, shape.outputs, shape.kernel, stride=shape.stride)


def _depthwise_separable(shape: Shape) -> nn.Module:
    return DepthwiseSeparable(shape.inputs, shape.outputs, shape.kernel, stride=shape.stride)


def _grouped(shape: Shape) -> nn.Module:
    groups = shape.groups_of(shape.inputs)
    return GroupedConv(shape.inputs, shape.outputs, shape.kernel, groups=groups, stride=shape.stride)


def _bottleneck(shape: Shape) -> nn.Module:
    return Bottleneck(
        shape.inputs,
        shape.outputs,
        shape.kernel,
        stride=shape.stride,
        bottleneck_ratio=shape.ratio_or(0.25),
        groups=shape.groups,
    )


def _inverted_residual(shape: Shape) -> nn.Module:
    return InvertedResidual(
        shape.inputs,
        shape.outputs,
        shape.kernel,
        stride=shape.stride,
        expansion_ratio=shape.ratio_or(6),
        squeezed=shape.squeezed,
    )


def _shuffle(shape: Shape) -> nn.Module:
    return ShuffleUnit(shape.inputs, shape.outputs, shape.kernel, stride=shape.stride)


def _fire(shape: Shape) -> nn.Module:
    return Fire(
        shape.inputs,
        shape.outputs,
        shape.kernel,
        stride=shape.stride,
        squeeze_ratio=shape.ratio_or(0.125),
    )


def _ghost(shape: Shape) -> nn.Module:
    return GhostBottleneck(
        shape.inputs,
        shape.outputs,
        shape.kernel,
        stride=shape.stride,
        expansion_ratio=shape.ratio_or(2),
        squeezed=shape.squeezed,
    )


BLOCKS: dict[str, Callable[[Shape], nn.Module]] = {
    "standard": _standard,
    "depthwise-separable": _depthwise_separable,
    "grouped": _grouped,
    "bottleneck": _bottleneck,
    "inverted-residual": _inverted_residual,
    "shuffle": _shuffle,
    "fire": _fire,
    "ghost": _ghost,
}


def build(block: str, shape: Shape) -> nn.Module:
    """Create the block `block` with initialised weights.

    Raises ValueError for an unknown name (the message has the allowed names), and for a shape that the block
    does not support.
    """
    if block not in BLOCKS:
        raise ValueError(f"block {block!r}: unknown (allowed: {', '.join(BLOCKS)})")
    return BLOCKS[block](shape)
