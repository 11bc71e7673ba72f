"""ShuffleNetV2: channel shuffle units, designed for low memory traffic rather than few MACs."""

from __future__ import annotations

from functools import partial

from torch import nn

from models.architectures.image_classifier import ImageClassifier
from models.architectures.width import scaled_channels
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.shuffle import ShuffleUnit

STEM_CHANNELS = 24
STAGES = ((116, 4), (232, 8), (464, 4))
"""Output channels and number of units of each stage. The first unit of a stage halves the map."""
EMBEDDING = 1024


def shufflenet_v2(classes: int = 1000, width_multiplier: float = 1.0) -> ImageClassifier:
    """Create ShuffleNetV2. A width multiplier of 1 gives the network that the paper calls "x1.0".

    Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
    https://arxiv.org/abs/1807.11164. With a multiplier other than 1, the number of a unit's output
    channels is a multiple of 16, so that each of the unit's two branches makes a multiple of 8 channels. With
    a multiplier of 1, as in the paper, this is not so: each branch of the first stage makes 58 channels.
    Raises ValueError for a width multiplier that leaves no channel.
    """
    scaled = partial(scaled_channels, multiplier=width_multiplier, divisor=16)
    channels = scaled_channels(STEM_CHANNELS, width_multiplier)
    stem = nn.Sequential(
        ConvNormAct(3, channels, 3, stride=2, activation=nn.ReLU), nn.MaxPool2d(3, stride=2, padding=1)
    )
    units = []
    for out, repeats in STAGES:
        for repeat in range(repeats):
            units.append(ShuffleUnit(channels, scaled(out), stride=2 if repeat == 0 else 1))
            channels = scaled(out)
    embedding = scaled_channels(EMBEDDING, max(1.0, width_multiplier))
    head = ConvNormAct(channels, embedding, 1, activation=nn.ReLU)
    return ImageClassifier(
        stem, nn.Sequential(*units), head, embedding=embedding, classes=classes, dropout=0.0
    )
