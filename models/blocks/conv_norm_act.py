"""Standard convolution with batch norm and activation, the baseline of all other blocks."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.arguments import Activation, make_activation
from models.blocks.norm import Norm
from models.blocks.padded_conv import PaddedConv2d, Pads


class ConvNormAct(nn.Module):
    """Standard convolution from maps (N, in, H, W) to maps (N, out, H', W').

    H' is (H + pads.top + pads.bottom - kernel_size) // stride + 1, and W' is computed alike.

    Every output channel depends on every input channel at every kernel position: LeCun et al., "Gradient-
    based learning applied to document recognition", 1998, with batch normalisation (Ioffe and Szegedy,
    https://arxiv.org/abs/1502.03167). `kernel_size=1` makes a pointwise convolution, `groups=in_channels` a
    depthwise one. Used for stems and heads.

    If `pads` is None, H' is ceil(H / stride). If `norm` is None, the convolution has a bias instead; if
    `activation` is None, the block is linear. The default ReLU6 bounds the range of quantized activations
    (Krizhevsky, "Convolutional deep belief networks on CIFAR-10", 2010).
    Raises ValueError as `PaddedConv2d` does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        pads: Pads | None = None,
        groups: int = 1,
        norm: Norm | None = Norm(),  # noqa: B008 -- frozen
        activation: Activation | None = nn.ReLU6,
    ) -> None:
        super().__init__()
        self.conv = PaddedConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            pads=pads,
            groups=groups,
            bias=norm is None,
        )
        self.bn = nn.Identity() if norm is None else norm.over(out_channels)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y
