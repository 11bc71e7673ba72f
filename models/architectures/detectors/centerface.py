"""CenterFace: faces and five landmarks from the peaks of a heat map."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from models.architectures.detectors.detector import Detector
from models.architectures.initialise import initialise
from models.architectures.mobilenet_v2 import STEM_CHANNELS, inverted_residuals
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.norm import Norm
from models.blocks.padded_conv import PaddedConv2d

NORM = Norm(eps=1e-3)
WIDTH = 24
"""Channels of the neck and of the shared head."""
TAPPED = (2, 5, 12, 16)
"""Indices of the blocks whose outputs the neck joins. Their strides are 4, 8, 16 and 32."""
LANDMARKS = 5


class CenterFace(Detector):
    """Face detector, which maps images (N, 3, 480, 640) to four maps (N, channels, 120, 160).

    `heatmap` (1 channel): score from 0 to 1. `size`: logarithm of height and width in cells of 4 pixels.
    `offset`: y and x of the centre from the middle of its cell, in cells. `landmarks`: y and x of each
    landmark from the box's top left corner, in units of the box's height and width.

    Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point",
    https://arxiv.org/abs/1911.03599: MobileNetV2 with ReLU, and a feature pyramid of transposed convolutions.
    The network could take any input whose sides are multiples of 32. This input has 4:3, the aspect ratio of
    most cameras.
    """

    outputs: ClassVar[tuple[str, ...]] = ("heatmap", "size", "offset", "landmarks")
    input_size: ClassVar[tuple[int, int]] = (480, 640)

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, STEM_CHANNELS, 3, stride=2, norm=NORM, activation=nn.ReLU)
        blocks = inverted_residuals(STEM_CHANNELS, norm=NORM, activation=nn.ReLU)
        self.blocks = nn.Sequential(*blocks)
        self.laterals = nn.ModuleList(
            ConvNormAct(blocks[number].conv_pwl.out_channels, WIDTH, 1, norm=NORM, activation=nn.ReLU)
            for number in TAPPED
        )
        self.ups = nn.ModuleList(_Up() for _ in TAPPED[1:])
        self.head = ConvNormAct(WIDTH, WIDTH, 3, norm=NORM, activation=nn.ReLU)
        self.heatmap_predictor = PaddedConv2d(WIDTH, 1, 1, bias=True)
        self.size_predictor = PaddedConv2d(WIDTH, 2, 1, bias=True)
        self.offset_predictor = PaddedConv2d(WIDTH, 2, 1, bias=True)
        self.landmarks_predictor = PaddedConv2d(WIDTH, 2 * LANDMARKS, 1, bias=True)
        self.act = nn.Sigmoid()
        initialise(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map from which all outputs are predicted, (N, 24, height / 4, width / 4)."""
        y, maps = self.stem(x), []
        for number, block in enumerate(self.blocks):
            y = block(y)
            if number in TAPPED:
                maps.append(y)
        joined = self.laterals[-1](maps[-1])
        for number in reversed(range(len(self.ups))):
            joined = self.ups[number](joined) + self.laterals[number](maps[number])
        head: Tensor = self.head(joined)
        return head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y = self.forward_features(x)
        return (
            self.act(self.heatmap_predictor(y)),
            self.size_predictor(y),
            self.offset_predictor(y),
            self.landmarks_predictor(y),
        )


class _Up(nn.Module):
    """Transposed convolution with stride and kernel size 2, from (N, 24, H, W) to (N, 24, 2 H, 2 W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(WIDTH, WIDTH, 2, stride=2, bias=False)
        self.bn = NORM.over(WIDTH)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y
