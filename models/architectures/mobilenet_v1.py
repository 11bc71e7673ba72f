"""MobileNetV1: a stack of depthwise separable convolutions."""

from __future__ import annotations

from functools import partial

from torch import nn

from models.architectures.image_classifier import ImageClassifier
from models.architectures.width import scaled_channels
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.depthwise_separable import DepthwiseSeparable

STEM_CHANNELS = 32
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
"""Output channels and stride of each block."""


def mobilenet_v1(classes: int = 1000, width_multiplier: float = 1.0) -> ImageClassifier:
    """Create MobileNetV1, with the ReLU6 of the authors' code.

    Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
    https://arxiv.org/abs/1704.04861.

    Raises ValueError for a width multiplier that leaves no channel.
    """
    scaled = partial(scaled_channels, multiplier=width_multiplier)
    channels = scaled(STEM_CHANNELS)
    stem = ConvNormAct(3, channels, 3, stride=2)
    blocks = []
    for out, stride in BLOCKS:
        blocks.append(DepthwiseSeparable(channels, scaled(out), stride=stride))
        channels = scaled(out)
    return ImageClassifier(
        stem, nn.Sequential(*blocks), nn.Identity(), embedding=channels, classes=classes, dropout=0.2
    )
