"""MobileNetV2: inverted residuals with linear bottlenecks."""

from __future__ import annotations

from torch import nn

from models.architectures.image_classifier import ImageClassifier
from models.architectures.width import scaled_channels
from models.blocks.arguments import Activation
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.inverted_residual import InvertedResidual
from models.blocks.norm import Norm
from models.blocks.padded_conv import same_pads

STEM_CHANNELS = 32
EMBEDDING = 1280
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion ratio, output channels, number of blocks, and stride of the first block."""


def inverted_residuals(
    channels: int,
    *,
    width_multiplier: float = 1.0,
    size: int | None = None,
    norm: Norm = Norm(),  # noqa: B008 -- frozen
    activation: Activation = nn.ReLU6,
) -> list[InvertedResidual]:
    """Create the 17 blocks behind a stem with `channels` output channels.

    `size` is the height and width of the stem's output map. If it is given, the blocks have TensorFlow's
    "same" padding, which depends on the size of a map. If it is None, the padding is equal on all sides.
    """
    blocks = []
    for expansion_ratio, out, repeats, first_stride in STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            out_channels = scaled_channels(out, width_multiplier)
            blocks.append(
                InvertedResidual(
                    channels,
                    out_channels,
                    pads=None if size is None else same_pads(size, 3, stride),
                    stride=stride,
                    expansion_ratio=expansion_ratio,
                    norm=norm,
                    activation=activation,
                )
            )
            channels = out_channels
            size = None if size is None else -(-size // stride)
    return blocks


def mobilenet_v2(classes: int = 1000, width_multiplier: float = 1.0) -> ImageClassifier:
    """Create MobileNetV2.

    As in the paper, a width multiplier above 1 also scales the embedding, but one below 1 does not.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    https://arxiv.org/abs/1801.04381.

    Raises ValueError for a width multiplier that leaves no channel.
    """
    channels = scaled_channels(STEM_CHANNELS, width_multiplier)
    stem = ConvNormAct(3, channels, 3, stride=2)
    blocks = inverted_residuals(channels, width_multiplier=width_multiplier)
    embedding = scaled_channels(EMBEDDING, max(1.0, width_multiplier))
    head = ConvNormAct(blocks[-1].conv_pwl.out_channels, embedding, 1)
    return ImageClassifier(
        stem, nn.Sequential(*blocks), head, embedding=embedding, classes=classes, dropout=0.2
    )
