"""Convolution, batch normalisation, activation: the plain unit that stems and heads are made of."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.padded_conv import NO_PADS, PaddedConv2d, Pads


class ConvNormAct(nn.Module):
    """(N, in, H, W) -> (N, out, H', W'), H' = (H + pads.top + pads.bottom - kernel_size) // stride + 1.

    Batch normalisation: Ioffe and Szegedy, https://arxiv.org/abs/1502.03167. ReLU6, which bounds what a
    quantized activation must hold: Krizhevsky, "Convolutional deep belief networks on CIFAR-10", 2010.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        pads: Pads = NO_PADS,
        groups: int = 1,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.conv = PaddedConv2d(
            in_channels, out_channels, kernel_size, stride=stride, pads=pads, groups=groups
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=norm_eps, momentum=norm_momentum)
        self.act = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y
