"""GhostNet: MobileNetV3-Large with Ghost modules instead of pointwise convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from models.architectures.image_classifier import ImageClassifier
from models.architectures.width import scaled_channels
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.ghost import GhostBottleneck

STEM_CHANNELS = 16
HEAD_CHANNELS = 960
EMBEDDING = 1280
SQUEEZE = 4
"""Factor by which squeeze-and-excitation reduces the channels.

The result is rounded to a multiple of 4, as in the code of the paper's authors.
"""


@dataclass(frozen=True)
class Block:
    """Description of one Ghost bottleneck.

    `width` is the number of channels inside the block, `channels` the number of its output channels.
    `squeezes` says whether the block has squeeze-and-excitation.
    """

    kernel_size: int
    width: int
    channels: int
    squeezes: bool
    stride: int


BLOCKS = (
    Block(3, 16, 16, False, 1),
    Block(3, 48, 24, False, 2),
    Block(3, 72, 24, False, 1),
    Block(5, 72, 40, True, 2),
    Block(5, 120, 40, True, 1),
    Block(3, 240, 80, False, 2),
    Block(3, 200, 80, False, 1),
    Block(3, 184, 80, False, 1),
    Block(3, 184, 80, False, 1),
    Block(3, 480, 112, True, 1),
    Block(3, 672, 112, True, 1),
    Block(5, 672, 160, True, 2),
    Block(5, 960, 160, False, 1),
    Block(5, 960, 160, True, 1),
    Block(5, 960, 160, False, 1),
    Block(5, 960, 160, True, 1),
)


def ghostnet(classes: int = 1000, width_multiplier: float = 1.0) -> ImageClassifier:
    """Create GhostNet.

    Han et al., "GhostNet: More Features from Cheap Operations", https://arxiv.org/abs/1911.11907.

    Raises ValueError for a width multiplier that leaves no channel.
    """
    scaled = partial(scaled_channels, multiplier=width_multiplier)
    channels = scaled(STEM_CHANNELS)
    stem = ConvNormAct(3, channels, 3, stride=2, activation=nn.ReLU)
    built = []
    for block in BLOCKS:
        width = scaled(block.width)
        built.append(
            GhostBottleneck(
                channels,
                scaled(block.channels),
                block.kernel_size,
                stride=block.stride,
                expansion_ratio=width / channels,
                squeezed=scaled_channels(width, 1 / SQUEEZE, divisor=4) if block.squeezes else None,
            )
        )
        channels = scaled(block.channels)
    pooled = scaled(HEAD_CHANNELS)
    head = ConvNormAct(channels, pooled, 1, activation=nn.ReLU)
    hidden = nn.Sequential(nn.Linear(pooled, EMBEDDING), nn.ReLU())
    return ImageClassifier(
        stem,
        nn.Sequential(*built),
        head,
        hidden=hidden,
        embedding=EMBEDDING,
        classes=classes,
        dropout=0.2,
    )
