"""Count parameters and multiply-accumulates of a module."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.cost.formulas import Cost


def profile(network: nn.Module, input_size: int | tuple[int, int], channels: int = 3) -> Cost:
    """Return the cost of a network or block for one input of `channels` x height x width.

    `input_size` is (height, width), or one number if the input is square.
    """
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    macs = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            per_output = math.prod(module.kernel_size) * module.in_channels // module.groups
            macs += output[0].numel() * per_output
        elif isinstance(module, nn.ConvTranspose2d):
            per_input = math.prod(module.kernel_size) * module.out_channels // module.groups
            macs += inputs[0][0].numel() * per_input
        elif isinstance(module, nn.Linear):
            macs += output[0].numel() * module.in_features

    training = network.training
    hooks = [module.register_forward_hook(count) for module in network.modules()]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, height, width))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return Cost(sum(p.numel() for p in network.parameters() if p.requires_grad), macs)
