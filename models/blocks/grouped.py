"""Grouped convolution: channels are split into independent groups."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.arguments import Activation, make_activation
from models.blocks.norm import Norm
from models.blocks.padded_conv import PaddedConv2d, Pads
from models.blocks.shuffle import channel_shuffle


class GroupedConv(nn.Module):
    """Grouped convolution from maps (N, in, H, W) to maps (N, out, H', W').

    H' is (H + pads.top + pads.bottom - kernel_size) // stride + 1, and W' is computed alike.

    Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012; used to save
    computation in Xie et al., "Aggregated Residual Transformations", https://arxiv.org/abs/1611.05431. With G
    groups it costs D_K² M N / G multiply-accumulates per output position. One `nn.Conv2d(groups=G)` splits
    the channels, convolves each part, and concatenates the results. Groups do not exchange information;
    `shuffle` interleaves the output's channels, so that each group of the next grouped convolution gets
    channels of all groups (Zhang et al., "ShuffleNet", https://arxiv.org/abs/1707.01083). If `pads` is None,
    H' is ceil(H / stride).
    Raises ValueError as `PaddedConv2d` does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        groups: int,
        stride: int = 1,
        pads: Pads | None = None,
        shuffle: bool = False,
        norm: Norm = Norm(),  # noqa: B008 -- frozen
        activation: Activation | None = nn.ReLU6,
    ) -> None:
        super().__init__()
        self.conv = PaddedConv2d(
            in_channels, out_channels, kernel_size, stride=stride, pads=pads, groups=groups
        )
        self.bn = norm.over(out_channels)
        self.act = make_activation(activation)
        self.shuffle = shuffle

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return channel_shuffle(y, self.conv.groups) if self.shuffle else y
