"""MnasNet: inverted residuals found by a latency-aware architecture search."""

from __future__ import annotations

from functools import partial

from torch import nn

from models.architectures.image_classifier import ImageClassifier
from models.architectures.width import scaled_channels
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.inverted_residual import InvertedResidual
from models.blocks.norm import Norm

STEM_CHANNELS = 32
EMBEDDING = 1280
STAGES = (
    (1, 3, 16, 1, 1),
    (3, 3, 24, 3, 2),
    (3, 5, 40, 3, 2),
    (6, 5, 80, 3, 2),
    (6, 3, 96, 2, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
"""Expansion ratio, kernel size, output channels, number of blocks, and stride of the first block."""
NORM = Norm(momentum=1 - 0.9997)


def mnasnet(classes: int = 1000, width_multiplier: float = 1.0) -> ImageClassifier:
    """Create MnasNet-B1, the variant without squeeze-and-excitation.

    Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile",
    https://arxiv.org/abs/1807.11626.

    Raises ValueError for a width multiplier that leaves no channel.
    """
    scaled = partial(scaled_channels, multiplier=width_multiplier)
    channels = scaled(STEM_CHANNELS)
    stem = ConvNormAct(3, channels, 3, stride=2, norm=NORM, activation=nn.ReLU)
    blocks = []
    for expansion_ratio, kernel_size, out, repeats, stride in STAGES:
        for repeat in range(repeats):
            blocks.append(
                InvertedResidual(
                    channels,
                    scaled(out),
                    kernel_size,
                    stride=stride if repeat == 0 else 1,
                    expansion_ratio=expansion_ratio,
                    norm=NORM,
                    activation=nn.ReLU,
                )
            )
            channels = scaled(out)
    head = ConvNormAct(channels, EMBEDDING, 1, norm=NORM, activation=nn.ReLU)
    return ImageClassifier(
        stem, nn.Sequential(*blocks), head, embedding=EMBEDDING, classes=classes, dropout=0.2
    )
