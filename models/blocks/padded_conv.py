"""A 2-D convolution whose padding may differ between the sides, as TensorFlow's "same" padding needs it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F


class Pads(NamedTuple):
    """Rows and columns of zeros added around a feature map."""

    top: int
    left: int
    bottom: int
    right: int


NO_PADS = Pads(0, 0, 0, 0)


def same_pads(size: int, kernel_size: int, stride: int) -> Pads:
    """TensorFlow's "same" padding of a square map of `size` pixels: the output has ceil(size / stride).

    Where the total is odd, the bottom and right sides get the extra row and column.
    """
    output = -(-size // stride)
    total = max((output - 1) * stride + kernel_size - size, 0)
    before = total // 2
    return Pads(before, before, total - before, total - before)


class PaddedConv2d(nn.Conv2d):
    """Convolution without bias: (N, in, H, W) -> (N, out, H', W').

    Padding that is equal on all sides is the convolution's own; otherwise the zeros are added first, which
    `models.export` folds into the convolution again (ONNX knows four separate pads, PyTorch does not).
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
    ) -> None:
        self.pads = pads
        self.even = len(set(pads)) == 1
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=pads.top if self.even else 0,
            groups=groups,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        if not self.even:
            x = F.pad(x, (self.pads.left, self.pads.right, self.pads.top, self.pads.bottom))
        return super().forward(x)
