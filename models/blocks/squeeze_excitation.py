"""Squeeze-and-excitation: scale each channel by a gate computed from the whole map."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.arguments import Activation, make_activation
from models.blocks.padded_conv import PaddedConv2d


class SqueezeExcitation(nn.Module):
    """Module that multiplies each channel of a map (N, channels, H, W) by a gate.

    Hu et al., "Squeeze-and-Excitation Networks", https://arxiv.org/abs/1709.01507. The map is averaged over
    its positions, reduced to `reduced` channels and expanded again; `gate` maps the result to 0 to 1. It
    needs few multiply-accumulates but several sequential steps.
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
        self.act = make_activation(activation)
        self.conv_expand = PaddedConv2d(reduced, channels, 1, bias=True)
        self.gate = make_activation(gate)

    def forward(self, x: Tensor) -> Tensor:
        gates = x.mean((2, 3), keepdim=True)
        gates = self.gate(self.conv_expand(self.act(self.conv_reduce(gates))))
        return x * gates
