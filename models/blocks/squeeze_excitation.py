"""Squeeze-and-excitation: weigh each channel by what the whole map shows."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.arguments import Activation, made
from models.blocks.padded_conv import PaddedConv2d


class SqueezeExcitation(nn.Module):
    """(N, channels, H, W) -> the same shape, each channel multiplied by its gate.

    Hu et al., "Squeeze-and-Excitation Networks", https://arxiv.org/abs/1709.01507. The map is averaged over
    its places, squeezed to `reduced` channels and widened again; `gate` brings the result to 0 to 1. Cheap in
    multiply-accumulates, dear in steps that wait for each other.
    Raises ValueError for numbers of channels below 1.
    """

    def __init__(
        self,
        channels: int,
        reduced: int,
        *,
        activation: Activation = nn.ReLU,
        gate: Activation = nn.Hardsigmoid,
    ) -> None:
        super().__init__()
        self.conv_reduce = PaddedConv2d(channels, reduced, 1, bias=True)
        self.act = made(activation)
        self.conv_expand = PaddedConv2d(reduced, channels, 1, bias=True)
        self.gate = made(gate)

    def forward(self, x: Tensor) -> Tensor:
        gates = x.mean((2, 3), keepdim=True)
        gates = self.gate(self.conv_expand(self.act(self.conv_reduce(gates))))
        return x * gates
