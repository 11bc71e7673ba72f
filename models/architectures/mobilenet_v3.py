"""MobileNetV3 Small and Large: inverted residuals with hard swish, some with squeeze-and-excitation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from models.architectures.image_classifier import ImageClassifier
from models.architectures.width import scaled_channels
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.inverted_residual import InvertedResidual
from models.blocks.norm import TENSORFLOW

STEM_CHANNELS = 16
SQUEEZE = 4
"""Factor by which squeeze-and-excitation reduces the channels. The result is rounded to a multiple of 8."""


@dataclass(frozen=True)
class Block:
    """Description of one inverted residual.

    `width` is the number of channels inside the block, `channels` the number of its output channels.
    `squeezes` says whether the block has squeeze-and-excitation.
    """

    kernel_size: int
    width: int
    channels: int
    squeezes: bool
    activation: type[nn.Module]
    stride: int


_R, _H = nn.ReLU, nn.Hardswish

SMALL = (
    Block(3, 16, 16, True, _R, 2),
    Block(3, 72, 24, False, _R, 2),
    Block(3, 88, 24, False, _R, 1),
    Block(5, 96, 40, True, _H, 2),
    Block(5, 240, 40, True, _H, 1),
    Block(5, 240, 40, True, _H, 1),
    Block(5, 120, 48, True, _H, 1),
    Block(5, 144, 48, True, _H, 1),
    Block(5, 288, 96, True, _H, 2),
    Block(5, 576, 96, True, _H, 1),
    Block(5, 576, 96, True, _H, 1),
)
LARGE = (
    Block(3, 16, 16, False, _R, 1),
    Block(3, 64, 24, False, _R, 2),
    Block(3, 72, 24, False, _R, 1),
    Block(5, 72, 40, True, _R, 2),
    Block(5, 120, 40, True, _R, 1),
    Block(5, 120, 40, True, _R, 1),
    Block(3, 240, 80, False, _H, 2),
    Block(3, 200, 80, False, _H, 1),
    Block(3, 184, 80, False, _H, 1),
    Block(3, 184, 80, False, _H, 1),
    Block(3, 480, 112, True, _H, 1),
    Block(3, 672, 112, True, _H, 1),
    Block(5, 672, 160, True, _H, 2),
    Block(5, 960, 160, True, _H, 1),
    Block(5, 960, 160, True, _H, 1),
)


def mobilenet_v3_small(classes: int = 1000, width_multiplier: float = 1.0) -> ImageClassifier:
    """Create MobileNetV3-Small: Howard et al., "Searching for MobileNetV3", https://arxiv.org/abs/1905.02244.

    Raises ValueError for a width multiplier that leaves no channel.
    """
    return _mobilenet_v3(SMALL, 1024, classes, width_multiplier)


def mobilenet_v3_large(classes: int = 1000, width_multiplier: float = 1.0) -> ImageClassifier:
    """Create MobileNetV3-Large, from the paper that `mobilenet_v3_small` cites.

    Raises ValueError for a width multiplier that leaves no channel.
    """
    return _mobilenet_v3(LARGE, 1280, classes, width_multiplier)


def _mobilenet_v3(
    blocks: tuple[Block, ...], embedding: int, classes: int, width_multiplier: float
) -> ImageClassifier:
    scaled = partial(scaled_channels, multiplier=width_multiplier)
    channels = scaled(STEM_CHANNELS)
    stem = ConvNormAct(3, channels, 3, stride=2, norm=TENSORFLOW, activation=nn.Hardswish)
    built = []
    for block in blocks:
        width = scaled(block.width)
        built.append(
            InvertedResidual(
                channels,
                scaled(block.channels),
                block.kernel_size,
                stride=block.stride,
                expansion_ratio=width / channels,
                squeezed=scaled_channels(width, 1 / SQUEEZE) if block.squeezes else None,
                norm=TENSORFLOW,
                activation=block.activation,
            )
        )
        channels = scaled(block.channels)
    pooled = 6 * channels
    head = ConvNormAct(channels, pooled, 1, norm=TENSORFLOW, activation=nn.Hardswish)
    hidden = nn.Sequential(nn.Linear(pooled, scaled(embedding)), nn.Hardswish())
    return ImageClassifier(
        stem,
        nn.Sequential(*built),
        head,
        hidden=hidden,
        embedding=scaled(embedding),
        classes=classes,
        dropout=0.2,
    )
