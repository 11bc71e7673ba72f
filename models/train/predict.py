"""What a network in evaluation mode says of prepared images, and how often it is right."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.train.device import layout
from models.train.job import Prepared


@torch.no_grad()
def predict(network: nn.Module, inputs: Tensor, batch_size: int = 500) -> Tensor:
    """Logits (N, classes) of a network in evaluation mode, which is where the inputs are."""
    order = layout(inputs.device)
    return torch.cat([network(x.contiguous(memory_format=order)) for x in inputs.split(batch_size)])


def accuracy(network: nn.Module, images: Prepared) -> float:
    """Share of the images that a network in evaluation mode names right."""
    right = predict(network, images.inputs).argmax(1) == images.classes
    return float(right.double().mean())
