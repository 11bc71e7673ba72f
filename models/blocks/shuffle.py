"""ShuffleNet V2 unit: half of the channels pass unchanged, half are convolved, then both are shuffled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.arguments import Activation, check_even, check_groups
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.norm import Norm


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Reorder the channels of (N, C, H, W): the first channel of each group, then the second of each, ...

    Zhang et al., "ShuffleNet", https://arxiv.org/abs/1707.01083. Costs memory traffic but no arithmetic.
    Raises ValueError if `groups` does not divide the channels.
    """
    _, channels, height, width = x.shape
    check_groups(groups, channels=int(channels))
    # The batch size is inferred (-1), so that the exported graph has constant shapes only.
    grouped = x.reshape(-1, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).reshape(-1, channels, height, width)


class ShuffleUnit(nn.Module):
    """ShuffleNet V2 unit from maps (N, in, H, W) to maps (N, out, ceil(H / stride), ceil(W / stride)).

    Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
    https://arxiv.org/abs/1807.11164. A unit has two branches: `branch` is a pointwise, a depthwise and a
    pointwise convolution with equal numbers of output channels; `shortcut` is the other branch. With stride
    1, one half of the input's channels goes through `branch`, and `shortcut` leaves the other half as it is.
    With stride 2, the whole input goes through both branches, and `shortcut` is a depthwise and a pointwise
    convolution; so the number of channels can change. Then the results of the branches are concatenated, and
    their channels are interleaved. Raises ValueError for odd channel counts, and with stride 1 for
    `out_channels` other than `in_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        norm: Norm = Norm(),  # noqa: B008 -- frozen
        activation: Activation | None = nn.ReLU,
    ) -> None:
        super().__init__()
        check_even(out_channels=out_channels)
        if stride == 1:
            check_even(in_channels=in_channels)
        self.splits = stride == 1
        if self.splits and in_channels != out_channels:
            raise ValueError(
                f"out_channels: {out_channels} (allowed with stride 1: as many as in_channels, {in_channels})"
            )
        half = out_channels // 2
        entering = half if self.splits else in_channels
        self.shortcut = (
            nn.Identity()
            if self.splits
            else nn.Sequential(
                ConvNormAct(
                    entering,
                    entering,
                    kernel_size,
                    stride=stride,
                    groups=entering,
                    norm=norm,
                    activation=None,
                ),
                ConvNormAct(entering, half, 1, norm=norm, activation=activation),
            )
        )
        self.branch = nn.Sequential(
            ConvNormAct(entering, half, 1, norm=norm, activation=activation),
            ConvNormAct(half, half, kernel_size, stride=stride, groups=half, norm=norm, activation=None),
            ConvNormAct(half, half, 1, norm=norm, activation=activation),
        )

    def forward(self, x: Tensor) -> Tensor:
        passing, working = x.chunk(2, dim=1) if self.splits else (x, x)
        return channel_shuffle(torch.cat((self.shortcut(passing), self.branch(working)), dim=1), 2)
