"""MobileNetV2: inverted residuals with linear bottlenecks."""

from __future__ import annotations

from functools import partial

from torch import nn

from models.architectures.image_classifier import ImageClassifier
from models.architectures.width import scaled_channels
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.inverted_residual import InvertedResidual

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
"""Expansion ratio, output channels, number of blocks, and stride of the first of them."""


def mobilenet_v2(classes: int = 1000, width_multiplier: float = 1.0) -> ImageClassifier:
    """Create MobileNetV2. As in the paper, the embedding grows with the width but does not shrink.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", https://arxiv.org/abs/1801.04381.

    Raises ValueError for a width multiplier that leaves no channel.
    """
    scaled = partial(scaled_channels, multiplier=width_multiplier)
    channels = scaled(STEM_CHANNELS)
    stem = ConvNormAct(3, channels, 3, stride=2)
    blocks = []
    for expansion_ratio, out, repeats, stride in STAGES:
        for repeat in range(repeats):
            blocks.append(
                InvertedResidual(
                    channels,
                    scaled(out),
                    stride=stride if repeat == 0 else 1,
                    expansion_ratio=expansion_ratio,
                )
            )
            channels = scaled(out)
    embedding = scaled_channels(EMBEDDING, max(1.0, width_multiplier))
    head = ConvNormAct(channels, embedding, 1)
    return ImageClassifier(
        stem, nn.Sequential(*blocks), head, embedding=embedding, classes=classes, dropout=0.2
    )
