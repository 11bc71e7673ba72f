"""EfficientNet-Lite 0 to 2: EfficientNet without squeeze-and-excitation, with ReLU6, for quantization."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from models.architectures.image_classifier import ImageClassifier
from models.architectures.width import scaled_channels
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.inverted_residual import InvertedResidual
from models.blocks.norm import TENSORFLOW
from models.blocks.padded_conv import same_pads

STEM_CHANNELS = 32
EMBEDDING = 1280


@dataclass(frozen=True)
class Variant:
    """How one variant is scaled.

    The multipliers scale the numbers of channels and of blocks. `input_size` is the height and width of the
    input in pixels, and `dropout` the probability of dropout before the classifier.
    """

    width_multiplier: float
    depth_multiplier: float
    input_size: int
    dropout: float


VARIANTS = {
    "efficientnet-lite0": Variant(1.0, 1.0, 224, 0.2),
    "efficientnet-lite1": Variant(1.0, 1.1, 240, 0.2),
    "efficientnet-lite2": Variant(1.1, 1.2, 260, 0.3),
}


@dataclass(frozen=True)
class Stage:
    """A part of the network: `repeats` blocks of the same kind, each with `channels` output channels.

    Only the first block has the stride and changes the number of channels.
    """

    repeats: int
    kernel_size: int
    stride: int
    expansion_ratio: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class EfficientNetLite(ImageClassifier):
    """Classifier, which maps images (N, 3, input_size, input_size) to logits (N, classes).

    The embedding has 1280 values.

    Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    https://arxiv.org/abs/1905.11946. The Lite variants are from TensorFlow's TPU repository,
    efficientnet/lite. They do not scale the stem, the head, and the depth of the first and the last stage.
    The padding is TensorFlow's "same", fixed for the variant's input size.
    """

    def __init__(self, variant: Variant, classes: int = 1000) -> None:
        size = variant.input_size
        stem = ConvNormAct(3, STEM_CHANNELS, 3, stride=2, pads=same_pads(size, 3, 2), norm=TENSORFLOW)
        size = math.ceil(size / 2)
        channels = STEM_CHANNELS
        blocks = []
        for index, stage in enumerate(STAGES):
            scaled = index not in (0, len(STAGES) - 1)
            repeats = math.ceil(stage.repeats * variant.depth_multiplier) if scaled else stage.repeats
            for repeat in range(repeats):
                stride = stage.stride if repeat == 0 else 1
                out_channels = scaled_channels(stage.channels, variant.width_multiplier)
                blocks.append(
                    InvertedResidual(
                        channels,
                        out_channels,
                        stage.kernel_size,
                        same_pads(size, stage.kernel_size, stride),
                        stride=stride,
                        expansion_ratio=stage.expansion_ratio,
                        norm=TENSORFLOW,
                    )
                )
                channels = out_channels
                size = math.ceil(size / stride)
        super().__init__(
            stem,
            nn.Sequential(*blocks),
            ConvNormAct(channels, EMBEDDING, 1, norm=TENSORFLOW),
            embedding=EMBEDDING,
            classes=classes,
            dropout=variant.dropout,
            input_size=variant.input_size,
        )
