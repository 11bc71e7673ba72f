"""Ghost module and bottleneck: a convolution makes some maps, depthwise convolutions derive the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.arguments import Activation, check_positive, share_of
from models.blocks.conv_norm_act import ConvNormAct
from models.blocks.norm import Norm
from models.blocks.squeeze_excitation import SqueezeExcitation


class GhostModule(nn.Module):
    """Ghost module from maps (N, in, H, W) to maps (N, out, ceil(H / stride), ceil(W / stride)).

    Han et al., "GhostNet: More Features from Cheap Operations", https://arxiv.org/abs/1911.11907. `primary`
    makes out / `ratio` maps; `cheap`, a depthwise convolution, makes `ratio` - 1 further maps from each of
    them. Raises ValueError for numbers below 1, and for a ratio that is below 2 or does not divide
    `out_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        norm: Norm = Norm(),  # noqa: B008 -- frozen
        activation: Activation | None = nn.ReLU,
    ) -> None:
        super().__init__()
        check_positive(out_channels=out_channels, ratio=ratio)
        if ratio < 2 or out_channels % ratio:
            raise ValueError(f"ratio: {ratio} (allowed: 2 or more, a divisor of out_channels {out_channels})")
        intrinsic = out_channels // ratio
        self.primary = ConvNormAct(
            in_channels, intrinsic, kernel_size, stride=stride, norm=norm, activation=activation
        )
        self.cheap = ConvNormAct(
            intrinsic,
            intrinsic * (ratio - 1),
            cheap_kernel_size,
            groups=intrinsic,
            norm=norm,
            activation=activation,
        )

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat((primary, self.cheap(primary)), dim=1)


class GhostBottleneck(nn.Module):
    """Ghost bottleneck from maps (N, in, H, W) to maps (N, out, ceil(H / stride), ceil(W / stride)).

    The bottleneck of GhostNet (see GhostModule). A Ghost module widens to `in_channels * expansion_ratio`
    channels. If `stride` > 1, a depthwise convolution reduces height and width. Unless `squeezed` is None,
    squeeze-and-excitation with `squeezed` middle channels weighs the channels. A Ghost module without
    activation narrows to `out_channels`. The input is added to the result. If stride or channels change, the
    input passes a depthwise and a pointwise convolution first (`shortcut`).
    Raises ValueError as GhostModule does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        expansion_ratio: float = 2,
        squeezed: int | None = None,
        norm: Norm = Norm(),  # noqa: B008 -- frozen
        activation: Activation | None = nn.ReLU,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels, stride=stride)
        width = share_of(in_channels, expansion_ratio, name="expansion_ratio", of="in_channels")
        self.widen = GhostModule(in_channels, width, norm=norm, activation=activation)
        self.conv_dw = (
            nn.Identity()
            if stride == 1
            else ConvNormAct(
                width, width, kernel_size, stride=stride, groups=width, norm=norm, activation=None
            )
        )
        self.se = nn.Identity() if squeezed is None else SqueezeExcitation(width, squeezed)
        self.narrow = GhostModule(width, out_channels, norm=norm, activation=None)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else nn.Sequential(
                ConvNormAct(
                    in_channels,
                    in_channels,
                    kernel_size,
                    stride=stride,
                    groups=in_channels,
                    norm=norm,
                    activation=None,
                ),
                ConvNormAct(in_channels, out_channels, 1, norm=norm, activation=None),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.se(self.conv_dw(self.widen(x))))
        return y + self.shortcut(x)
