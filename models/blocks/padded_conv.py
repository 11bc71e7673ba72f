"""2-D convolution with asymmetric padding, as TensorFlow's "same" padding needs it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.arguments import check_groups, check_positive


class Pads(NamedTuple):
    """Numbers of rows and columns of zeros that are added on each side of a feature map."""

    top: int
    left: int
    bottom: int
    right: int


NO_PADS = Pads(0, 0, 0, 0)


def same_pads(size: int, kernel_size: int, stride: int) -> Pads:
    """Return TensorFlow's "same" padding of a map of `size` x `size` pixels.

    The height and width of the output are then ceil(size / stride). If the total padding is odd, the bottom
    and right sides get the extra row and column.
    """
    check_positive(size=size, kernel_size=kernel_size, stride=stride)
    output = -(-size // stride)
    total = max((output - 1) * stride + kernel_size - size, 0)
    before = total // 2
    return Pads(before, before, total - before, total - before)


def centred_pads(kernel_size: int) -> Pads:
    """Return the padding, equal on all sides, for a convolution with this kernel size.

    With it, an input side of `size` pixels gives an output side of ceil(size / stride) pixels. Raises
    ValueError for an even kernel size.
    """
    check_positive(kernel_size=kernel_size)
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: {kernel_size} (allowed: an odd number, or any number with pads)")
    return Pads(*[kernel_size // 2] * 4)


class PaddedConv2d(nn.Conv2d):
    """Convolution from maps (N, in, H, W) to maps (N, out, H', W').

    H' is (H + pads.top + pads.bottom - kernel_size) // stride + 1, and W' is computed alike.

    `pads` defaults to `centred_pads`. Padding that is equal on all sides is part of the convolution. Other
    padding is added before the convolution, and `models.export.to_onnx` folds it in: ONNX has four separate
    pads, unlike PyTorch.
    Raises ValueError for numbers below 1, negative pads, or groups that do not divide both channel counts.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        pads: Pads | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        check_positive(kernel_size=kernel_size, stride=stride)
        check_groups(groups, in_channels=in_channels, out_channels=out_channels)
        pads = centred_pads(kernel_size) if pads is None else pads
        if min(pads) < 0:
            raise ValueError(f"pads: {tuple(pads)} (allowed: 0 or more each)")
        self.pads = pads
        self.even = len(set(pads)) == 1
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=pads.top if self.even else 0,
            groups=groups,
            bias=bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        if not self.even:
            x = F.pad(x, (self.pads.left, self.pads.right, self.pads.top, self.pads.bottom))
        return super().forward(x)
