"""What a network costs on paper: parameters and multiply-accumulates, counted on the module itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """`parameters`: trainable, batch norm unfolded. `macs`: multiply-accumulates of one image.

    `macs` counts convolutions and linear layers, as papers do: not batch norm, bias, activation or pooling.
    """

    parameters: int
    macs: int


def profile(network: nn.Module, input_size: int, channels: int = 3) -> Cost:
    """Count `network` on one image of `channels` x `input_size` x `input_size`, whatever its weights are."""
    macs = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            per_output = math.prod(module.kernel_size) * module.in_channels // module.groups
            macs += output[0].numel() * per_output
        elif isinstance(module, nn.Linear):
            macs += output[0].numel() * module.in_features

    training = network.training
    hooks = [module.register_forward_hook(count) for module in network.modules()]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, input_size, input_size))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return Cost(sum(p.numel() for p in network.parameters() if p.requires_grad), macs)
