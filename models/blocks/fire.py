"""Fire module: squeeze to few channels, then expand, half with pointwise and half with larger kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.arguments import Activation, check_even, share_of
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.norm import Norm


class Fire(nn.Module):
    """Fire module from maps (N, in, H, W) to maps (N, out, ceil(H / stride), ceil(W / stride)).

    Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters",
    https://arxiv.org/abs/1602.07360. `squeeze` is a pointwise convolution to `out_channels * squeeze_ratio`
    channels; `expand_pw` and `expand_conv` each make half of the output. If `norm` is None, as in the paper,
    convolutions have biases instead of batch norm. The paper downsamples by pooling between the modules; here
    `stride` applies to the expanding convolutions.
    Raises ValueError for numbers below 1, odd `out_channels`, or a ratio that leaves no channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        squeeze_ratio: float = 0.125,
        norm: Norm | None = None,
        activation: Activation | None = nn.ReLU,
    ) -> None:
        super().__init__()
        check_even(out_channels=out_channels)
        squeezed = share_of(out_channels, squeeze_ratio, name="squeeze_ratio", of="out_channels")
        half = out_channels // 2
        self.squeeze = ConvNormAct(in_channels, squeezed, 1, norm=norm, activation=activation)
        self.expand_pw = ConvNormAct(squeezed, half, 1, stride=stride, norm=norm, activation=activation)
        self.expand_conv = ConvNormAct(
            squeezed, half, kernel_size, stride=stride, norm=norm, activation=activation
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.squeeze(x)
        return torch.cat((self.expand_pw(y), self.expand_conv(y)), dim=1)
