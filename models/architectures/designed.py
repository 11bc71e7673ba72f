"""Networks for grey images of 28 x 28 pixels, each built from a Design."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from models.architectures.image_classifier import ImageClassifier
from models.blocks.arguments import check_groups
from models.blocks.bottleneck import Bottleneck
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.depthwise_separable import DepthwiseSeparable
from models.blocks.fire import Fire
from models.blocks.ghost import GhostBottleneck
from models.blocks.grouped import GroupedConv
from models.blocks.inverted_residual import InvertedResidual
from models.blocks.norm import Norm
from models.blocks.shuffle import ShuffleUnit
from models.zoo.frozen import Frozen

Channels = Annotated[int, Field(gt=0, multiple_of=8)]
"""A number of channels. It is a multiple of 8, so that it fills the runtime's vector registers."""

DROPOUT = 0.1

BlockName = Literal[
    "standard",
    "depthwise-separable",
    "grouped",
    "bottleneck",
    "inverted-residual",
    "inverted-residual-se",
    "shuffle",
    "fire",
    "ghost",
]


class Stage(Frozen):
    """A part of a design: `repeats` blocks of the same kind, each with `channels` output channels.

    The first block has stride `stride`, and its input is the output of the previous stage (or of the stem).
    All other blocks have `channels` input channels and stride 1. `ratio` is the expansion of an inverted
    residual or Ghost block, or the reduction of a bottleneck or Fire block; other blocks ignore it.
    `group_width` is about the number of channels in each group of a grouped convolution (see `groups_of`).
    """

    block: BlockName
    channels: Channels
    repeats: int = Field(gt=0)
    stride: Literal[1, 2] = 2
    kernel_size: Literal[3, 5, 7] = 3
    ratio: float | None = Field(default=None, gt=0)
    group_width: int = Field(default=16, gt=0, multiple_of=8)


class Design(Frozen):
    """Description of a whole network: its stem, its stages and its head.

    `stem` is the number of output channels of the first convolution, which is 3 x 3. `head` is the number of
    output channels of the pointwise convolution after the last stage. If it is None, there is no such
    convolution.
    """

    stem: Channels
    stages: tuple[Stage, ...] = Field(min_length=1)
    head: Channels | None = None

    def block(self) -> str:
        """Return the block names of the stages in order, without repeats, joined by "+"."""
        return "+".join(dict.fromkeys(stage.block for stage in self.stages))


def round_channels(channels: float, divisor: int = 8) -> int:
    """Return `channels` rounded to the nearest multiple of `divisor`, but at least `divisor`."""
    return max(divisor, int(channels / divisor + 0.5) * divisor)


def groups_of(channels: int, out_channels: int, group_width: int) -> int:
    """Return the number of groups of a convolution whose groups have about `group_width` channels.

    This is how often `group_width` fits into the input or output channels, whichever are fewer, but at least
    1.
    """
    return max(1, min(channels, out_channels) // group_width)


def _standard(channels: int, stage: Stage, stride: int) -> nn.Module:
    return ConvNormAct(channels, stage.channels, stage.kernel_size, stride=stride)


def _depthwise_separable(channels: int, stage: Stage, stride: int) -> nn.Module:
    return DepthwiseSeparable(channels, stage.channels, stage.kernel_size, stride=stride)


def _grouped(channels: int, stage: Stage, stride: int) -> nn.Module:
    groups = groups_of(channels, stage.channels, stage.group_width)
    check_groups(groups, in_channels=channels, out_channels=stage.channels)
    return GroupedConv(
        channels, stage.channels, stage.kernel_size, groups=groups, stride=stride, shuffle=groups > 1
    )


def _bottleneck(channels: int, stage: Stage, stride: int) -> nn.Module:
    width = round_channels(stage.channels * (stage.ratio or 0.25))
    return Bottleneck(
        channels,
        stage.channels,
        stage.kernel_size,
        stride=stride,
        bottleneck_ratio=width / stage.channels,
        activation=nn.ReLU6,
    )


def _inverted_residual(channels: int, stage: Stage, stride: int, *, squeeze: bool = False) -> nn.Module:
    width = round_channels(channels * (stage.ratio or 4))
    return InvertedResidual(
        channels,
        stage.channels,
        stage.kernel_size,
        stride=stride,
        expansion_ratio=width / channels,
        squeezed=round_channels(width / 4) if squeeze else None,
    )


def _inverted_residual_se(channels: int, stage: Stage, stride: int) -> nn.Module:
    return _inverted_residual(channels, stage, stride, squeeze=True)


def _shuffle(channels: int, stage: Stage, stride: int) -> nn.Module:
    return ShuffleUnit(channels, stage.channels, stage.kernel_size, stride=stride, activation=nn.ReLU6)


def _fire(channels: int, stage: Stage, stride: int) -> nn.Module:
    squeezed = round_channels(stage.channels * (stage.ratio or 0.25))
    return Fire(
        channels,
        stage.channels,
        stage.kernel_size,
        stride=stride,
        squeeze_ratio=squeezed / stage.channels,
        norm=Norm(),
        activation=nn.ReLU6,
    )


def _ghost(channels: int, stage: Stage, stride: int) -> nn.Module:
    width = round_channels(channels * (stage.ratio or 2), 16)
    return GhostBottleneck(
        channels,
        stage.channels,
        stage.kernel_size,
        stride=stride,
        expansion_ratio=width / channels,
        activation=nn.ReLU6,
    )


BLOCKS: dict[str, Callable[[int, Stage, int], nn.Module]] = {
    "standard": _standard,
    "depthwise-separable": _depthwise_separable,
    "grouped": _grouped,
    "bottleneck": _bottleneck,
    "inverted-residual": _inverted_residual,
    "inverted-residual-se": _inverted_residual_se,
    "shuffle": _shuffle,
    "fire": _fire,
    "ghost": _ghost,
}


class DesignedNetwork(ImageClassifier):
    """Network of a design, which maps grey images (N, 1, 28, 28) to logits (N, classes).

    Raises ValueError if a block does not support the design's numbers of channels, e.g. because its number of
    groups does not divide them.
    """

    input_channels = 1

    def __init__(self, design: Design, classes: int) -> None:
        stem = ConvNormAct(1, design.stem, 3)
        channels = design.stem
        blocks = []
        for stage in design.stages:
            for repeat in range(stage.repeats):
                blocks.append(BLOCKS[stage.block](channels, stage, stage.stride if repeat == 0 else 1))
                channels = stage.channels
        super().__init__(
            stem,
            nn.Sequential(*blocks),
            nn.Identity() if design.head is None else ConvNormAct(channels, design.head, 1),
            embedding=design.head or channels,
            classes=classes,
            dropout=DROPOUT,
            input_size=28,
            start=lambda network: network.apply(_initialise),
        )
        self.design = design


def _initialise(module: nn.Module) -> None:
    """Initialise a layer so that activations keep their scale (He et al., arXiv:1502.01852)."""
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)
