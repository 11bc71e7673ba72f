"""The inverted residual block: widen with a pointwise convolution, filter depthwise, narrow again."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.padded_conv import PaddedConv2d, Pads


class InvertedResidual(nn.Module):
    """(N, in, H, W) -> (N, out, H', W'), H' = (H + pads.top + pads.bottom - kernel_size) // stride + 1.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", https://arxiv.org/abs/1801.04381.
    Inside, the map has `in_channels * expansion_ratio` channels; with a ratio of 1 nothing is widened and
    there is no `conv_pw`. The narrowing convolution `conv_pwl` has no activation. The input is added to the
    output where the shapes allow it (`has_skip`: stride 1 and as many channels out as in).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        pads: Pads,
        *,
        stride: int = 1,
        expansion_ratio: int = 6,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
    ) -> None:
        super().__init__()

        def norm(channels: int) -> nn.BatchNorm2d:
            return nn.BatchNorm2d(channels, eps=norm_eps, momentum=norm_momentum)

        width = in_channels * expansion_ratio
        self.has_skip = stride == 1 and in_channels == out_channels
        self.has_expansion = expansion_ratio != 1
        if self.has_expansion:
            self.conv_pw = PaddedConv2d(in_channels, width, 1)
            self.bn1 = norm(width)
            self.act1 = nn.ReLU6()
        self.conv_dw = PaddedConv2d(width, width, kernel_size, stride=stride, pads=pads, groups=width)
        self.bn2 = norm(width)
        self.act2 = nn.ReLU6()
        self.conv_pwl = PaddedConv2d(width, out_channels, 1)
        self.bn3 = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.has_expansion:
            y = self.act1(self.bn1(self.conv_pw(y)))
        y = self.act2(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.has_skip else y
