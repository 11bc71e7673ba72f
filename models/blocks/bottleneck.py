"""Residual bottleneck: pointwise reduction, convolution, pointwise expansion, skip connection."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from models.blocks.arguments import Activation, check_groups, check_positive, make_activation, share_of
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.norm import Norm
from models.blocks.padded_conv import PaddedConv2d


class Bottleneck(nn.Module):
    """Residual bottleneck from maps (N, in, H, W) to maps (N, out, ceil(H / stride), ceil(W / stride)).

    He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385. With groups
    in the middle: Xie et al., "Aggregated Residual Transformations", https://arxiv.org/abs/1611.05431. The
    middle convolution has `out_channels * bottleneck_ratio` channels; `groups` is its number of groups, or
    "depthwise" for one per channel. The input is added before the last activation; if stride or channels
    change, a pointwise convolution projects it first (`shortcut`).
    Raises ValueError for numbers below 1, a ratio that leaves no channel, or groups that do not divide the
    middle width.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        bottleneck_ratio: float = 0.25,
        groups: int | Literal["depthwise"] = 1,
        norm: Norm = Norm(),  # noqa: B008 -- frozen
        activation: Activation | None = nn.ReLU,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels)
        width = share_of(out_channels, bottleneck_ratio, name="bottleneck_ratio", of="out_channels")
        groups = width if groups == "depthwise" else groups
        check_groups(groups, **{"the bottleneck's width": width})
        self.conv1 = PaddedConv2d(in_channels, width, 1)
        self.bn1 = norm.over(width)
        self.act1 = make_activation(activation)
        self.conv2 = PaddedConv2d(width, width, kernel_size, stride=stride, groups=groups)
        self.bn2 = norm.over(width)
        self.act2 = make_activation(activation)
        self.conv3 = PaddedConv2d(width, out_channels, 1)
        self.bn3 = norm.over(out_channels)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else ConvNormAct(in_channels, out_channels, 1, stride=stride, norm=norm, activation=None)
        )
        self.act3 = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.act3(y + self.shortcut(x))
