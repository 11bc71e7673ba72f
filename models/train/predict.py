"""Batched inference and accuracy of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.train.device import layout
from models.train.job import Prepared


@torch.no_grad()
def predict(network: nn.Module, inputs: Tensor, batch_size: int = 500) -> Tensor:
    """Return logits (N, classes) for `inputs` (N, 1, H, W); one device, network in evaluation mode."""
    order = layout(inputs.device)
    return torch.cat([network(x.contiguous(memory_format=order)) for x in inputs.split(batch_size)])


def accuracy(network: nn.Module, images: Prepared) -> float:
    """Return the share of images that a network in evaluation mode classifies correctly."""
    correct = predict(network, images.inputs).argmax(1) == images.classes
    return float(correct.double().mean())
