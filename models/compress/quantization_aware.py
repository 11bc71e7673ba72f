"""Quantization-aware training: fine-tune a network with fake quantization of weights and activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish)


class _Rounding:
    """Forward hook that rounds the output of a module to 256 equally spaced values.

    The values range from the moving average of the output's minimum to that of its maximum.
    """

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0

    def __call__(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        low, high = min(0.0, float(output.detach().min())), max(0.0, float(output.detach().max()))
        momentum = 1.0 if self.high == self.low else 0.05
        self.low += momentum * (low - self.low)
        self.high += momentum * (high - self.high)
        scale = max((self.high - self.low) / 255, 1e-8)
        zero = round(min(255.0, max(0.0, -self.low / scale)))
        return torch.fake_quantize_per_tensor_affine(output, scale, zero, 0, 255)


@contextmanager
def fake_quantization(network: nn.Module) -> Iterator[None]:
    """Context in which `network` computes as its static int8 variant will.

    Weights are rounded to int8, with one scale for each output channel. Activations are rounded to uint8,
    with one scale and one zero point for each tensor. Gradients pass the rounding unchanged: Jacob et al.,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    https://arxiv.org/abs/1712.05877. Batch norms must be folded before (`models.architectures.folded`).
    """
    hooks = []
    for parent in network.modules():
        children = list(parent.children())
        for index, module in enumerate(children):
            following = children[index + 1 : index + 3]
            if isinstance(module, nn.Conv2d):
                hooks.append(module.register_forward_pre_hook(_round_weights))
                hooks.append(module.register_forward_hook(_restore_weights))
                if not any(isinstance(after, ACTIVATIONS) for after in following):
                    hooks.append(module.register_forward_hook(_Rounding()))
            elif isinstance(module, ACTIVATIONS):
                hooks.append(module.register_forward_hook(_Rounding()))
    blocks = getattr(network, "blocks", None)
    for block in blocks.children() if blocks is not None else ():
        hooks.append(block.register_forward_hook(_Rounding()))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _round_weights(module: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
    weight: Tensor = module.weight  # type: ignore[assignment]
    scale = weight.detach().abs().amax((1, 2, 3)).clamp_min(1e-8) / 127
    zeros = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
    rounded_weight = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -127, 127)
    # Saved under another name, because the optimizer updates the parameter itself.
    module.__dict__["exact_weight"] = module._parameters.pop("weight")
    module.__dict__["weight"] = rounded_weight


def _restore_weights(module: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
    del module.__dict__["weight"]
    module._parameters["weight"] = module.__dict__.pop("exact_weight")
