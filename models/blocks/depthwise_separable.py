"""Depthwise separable convolution: a depthwise convolution, then a pointwise one."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.arguments import Activation, check_positive, make_activation
from models.blocks.norm import Norm
from models.blocks.padded_conv import PaddedConv2d, Pads


class DepthwiseSeparable(nn.Module):
    """Depthwise separable convolution from maps (N, in, H, W) to maps (N, out, H', W').

    H' is (H + pads.top + pads.bottom - kernel_size) // stride + 1, and W' is computed alike.

    Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
    https://arxiv.org/abs/1704.04861. A standard convolution of D_K x D_K from M to N channels costs D_K² M N
    multiply-accumulates per output position. This block costs D_K² M + M N, which is 1/N + 1/D_K² times as
    many. Both convolutions have batch norm and activation. If `pads` is None, H' is ceil(H / stride). Raises
    ValueError as `PaddedConv2d` does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        pads: Pads | None = None,
        norm: Norm = Norm(),  # noqa: B008 -- frozen
        activation: Activation | None = nn.ReLU6,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels)
        self.conv_dw = PaddedConv2d(
            in_channels, in_channels, kernel_size, stride=stride, pads=pads, groups=in_channels
        )
        self.bn1 = norm.over(in_channels)
        self.act1 = make_activation(activation)
        self.conv_pw = PaddedConv2d(in_channels, out_channels, 1)
        self.bn2 = norm.over(out_channels)
        self.act2 = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv_dw(x)))
        return self.act2(self.bn2(self.conv_pw(y)))
