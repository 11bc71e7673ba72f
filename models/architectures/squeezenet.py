"""SqueezeNet 1.1: Fire modules with pooling between them, and a convolutional classifier."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures.initialise import initialise
from models.architectures.width import scaled_channels
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.fire import Fire
from models.blocks.padded_conv import NO_PADS, PaddedConv2d

STEM_CHANNELS = 64
STAGES = ((128, 128), (256, 256), (384, 384, 512, 512))
"""Output channels of the Fire modules, in groups with a pooling between them."""


class SqueezeNet(nn.Module):
    """Classifier, which maps images (N, 3, 224, 224) to logits (N, classes).

    Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
    https://arxiv.org/abs/1602.07360, version 1.1. The classifier is a pointwise convolution with ReLU before
    average pooling, so the embedding (the averaged features) is not an input of the logits.
    Raises ValueError for a width multiplier that leaves no channel.
    """

    input_size = 224
    input_channels = 3

    def __init__(self, classes: int = 1000, width_multiplier: float = 1.0) -> None:
        super().__init__()
        channels = scaled_channels(STEM_CHANNELS, width_multiplier)
        self.stem = ConvNormAct(3, channels, 3, stride=2, pads=NO_PADS, norm=None, activation=nn.ReLU)
        blocks: list[nn.Module] = []
        for stage in STAGES:
            blocks.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
            for published in stage:
                out = scaled_channels(published, width_multiplier, divisor=16)
                # 1/8 as published, rounded to a multiple of 8 at other widths.
                squeezed = scaled_channels(out, 1 / 8)
                blocks.append(Fire(channels, out, squeeze_ratio=squeezed / out))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(0.5)
        self.classifier = PaddedConv2d(channels, classes, 1, bias=True)
        initialise(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, channels, 13, 13)."""
        y: Tensor = self.blocks(self.stem(x))
        return y

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return logits (N, classes). If `pre_logits` is true, return the averaged features (N, channels)."""
        if pre_logits:
            return F.adaptive_avg_pool2d(features, 1).flatten(1)
        maps = F.relu(self.classifier(self.dropout(features)))
        return F.adaptive_avg_pool2d(maps, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
