"""Inverted residual: pointwise expansion, depthwise convolution, linear pointwise projection."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.arguments import Activation, check_positive, make_activation, share_of
from models.blocks.norm import Norm
from models.blocks.padded_conv import PaddedConv2d, Pads
from models.blocks.squeeze_excitation import SqueezeExcitation


class InvertedResidual(nn.Module):
    """Inverted residual from maps (N, in, H, W) to maps (N, out, H', W').

    H' is (H + pads.top + pads.bottom - kernel_size) // stride + 1, and W' is computed alike.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    https://arxiv.org/abs/1801.04381; with squeeze-and-excitation: Howard et al., "Searching for MobileNetV3",
    https://arxiv.org/abs/1905.02244. The inner map has `in_channels * expansion_ratio` channels; with ratio 1
    there is no `conv_pw`. `squeezed` is the number of middle channels of the squeeze-and-excitation after the
    depthwise convolution; if it is None, there is no squeeze-and-excitation. The projection `conv_pwl` has no
    activation. The input is added to the output if their shapes are equal (`has_skip`: stride 1, and equal
    numbers of input and output channels). If `pads` is None, H' is ceil(H / stride).
    Raises ValueError as `PaddedConv2d` does, and for an expansion ratio that leaves no channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        pads: Pads | None = None,
        *,
        stride: int = 1,
        expansion_ratio: float = 6,
        squeezed: int | None = None,
        norm: Norm = Norm(),  # noqa: B008 -- frozen
        activation: Activation | None = nn.ReLU6,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels)
        width = share_of(in_channels, expansion_ratio, name="expansion_ratio", of="in_channels")
        self.has_skip = stride == 1 and in_channels == out_channels
        self.has_expansion = width != in_channels
        if self.has_expansion:
            self.conv_pw = PaddedConv2d(in_channels, width, 1)
            self.bn1 = norm.over(width)
            self.act1 = make_activation(activation)
        self.conv_dw = PaddedConv2d(width, width, kernel_size, stride=stride, pads=pads, groups=width)
        self.bn2 = norm.over(width)
        self.act2 = make_activation(activation)
        self.se = nn.Identity() if squeezed is None else SqueezeExcitation(width, squeezed)
        self.conv_pwl = PaddedConv2d(width, out_channels, 1)
        self.bn3 = norm.over(out_channels)

    def expand(self, x: Tensor) -> Tensor:
        """Return the input of the depthwise convolution, (N, in * expansion_ratio, H, W)."""
        return self.act1(self.bn1(self.conv_pw(x))) if self.has_expansion else x

    def project(self, inner: Tensor, x: Tensor) -> Tensor:
        """Return the block's output for its input `x` and the map `inner` that `expand` returned for `x`."""
        y = self.se(self.act2(self.bn2(self.conv_dw(inner))))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.has_skip else y

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.expand(x), x)
