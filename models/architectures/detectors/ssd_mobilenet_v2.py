"""SSD with a MobileNetV2 backbone, as published for Open Images."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from models.architectures.detectors.detector import Detector
from models.architectures.initialise import initialise
from models.architectures.mobilenet_v2 import EMBEDDING, STEM_CHANNELS, inverted_residuals
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.norm import TENSORFLOW
from models.blocks.padded_conv import PaddedConv2d, same_pads

SIZE = 300
COLUMNS = 24
"""Number of scores of an anchor: one for the background, then one for each of 23 classes."""
TAPPED = 13
"""Index of the block whose expanded map (stride 16) is the first map from which boxes are predicted."""
EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 128))
"""Inner and output channels of each layer behind the backbone. Each layer halves the map."""
ANCHORS = (3, 6, 6, 6, 6, 6)
"""Number of anchors that each cell has, for each of the six maps."""


class SsdMobileNetV2(Detector):
    """Object detector, which maps images (N, 3, 300, 300) to 1917 boxes and their scores.

    The boxes (N, 1917, 4) are relative to anchors. The scores (N, 1917, 24) are logits, to which a sigmoid is
    to be applied. Liu et al., "SSD: Single Shot MultiBox Detector", https://arxiv.org/abs/1512.02325, with
    the backbone of Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    https://arxiv.org/abs/1801.04381. It is built as in the TensorFlow Object Detection API: maps of 19, 10,
    5, 3, 2 and 1 cells a side, predictors of 1 x 1, and anchors ordered by map, row, column. The padding is
    TensorFlow's "same".
    """

    outputs: ClassVar[tuple[str, ...]] = ("boxes", "scores")
    input_size: ClassVar[tuple[int, int]] = (SIZE, SIZE)

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, STEM_CHANNELS, 3, stride=2, pads=same_pads(SIZE, 3, 2), norm=TENSORFLOW)
        blocks = inverted_residuals(STEM_CHANNELS, size=SIZE // 2, norm=TENSORFLOW)
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNormAct(blocks[-1].conv_pwl.out_channels, EMBEDDING, 1, norm=TENSORFLOW)
        extras, channels, side = [], EMBEDDING, -(-SIZE // 32)
        for inner, out in EXTRAS:
            reduce = ConvNormAct(channels, inner, 1, norm=TENSORFLOW)
            halve = ConvNormAct(inner, out, 3, stride=2, pads=same_pads(side, 3, 2), norm=TENSORFLOW)
            extras.append(nn.Sequential(reduce, halve))
            channels, side = out, -(-side // 2)
        self.extras = nn.Sequential(*extras)
        widths = (blocks[TAPPED].conv_pw.out_channels, EMBEDDING, *(out for _, out in EXTRAS))
        self.box_predictors = nn.ModuleList(
            PaddedConv2d(width, anchors * 4, 1, bias=True)
            for width, anchors in zip(widths, ANCHORS, strict=True)
        )
        self.score_predictors = nn.ModuleList(
            PaddedConv2d(width, anchors * COLUMNS, 1, bias=True)
            for width, anchors in zip(widths, ANCHORS, strict=True)
        )
        initialise(self)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Return the six maps from which boxes are predicted, each (N, channels, h, w)."""
        y = self.blocks[:TAPPED](self.stem(x))
        tapped = self.blocks[TAPPED]
        inner = tapped.expand(y)
        y = self.head(self.blocks[TAPPED + 1 :](tapped.project(inner, y)))
        maps = [inner, y]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.forward_features(x)
        boxes = [_by_anchor(layer(y), 4) for layer, y in zip(self.box_predictors, maps, strict=True)]
        scores = [_by_anchor(layer(y), COLUMNS) for layer, y in zip(self.score_predictors, maps, strict=True)]
        return torch.cat(boxes, 1), torch.cat(scores, 1)


def _by_anchor(y: Tensor, values: int) -> Tensor:
    """Return the map (N, anchors * values, h, w) as a list of anchors, (N, h * w * anchors, values)."""
    rows = y.shape[1] // values * y.shape[2] * y.shape[3]
    return y.permute(0, 2, 3, 1).reshape(-1, rows, values)
