"""Batched inference and accuracy of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.train.device import layout
from models.train.job import Prepared

BATCH, LARGE_BATCH = 100, 500
"""Number of images in a batch: BATCH on a CPU, LARGE_BATCH on a GPU.

A CPU's caches hold only the feature maps of few images.
"""


@torch.no_grad()
def predict(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return logits (N, classes) for `inputs` (N, 1, H, W). The network must be in evaluation mode."""
    order = layout(inputs.device)
    size = BATCH if inputs.device.type == "cpu" else LARGE_BATCH
    return torch.cat([network(x.contiguous(memory_format=order)) for x in inputs.split(size)])


def accuracy(network: nn.Module, images: Prepared) -> float:
    """Return the share of images that the network, which must be in evaluation mode, classifies correctly."""
    correct = predict(network, images.inputs).argmax(1) == images.classes
    return float(correct.double().mean())
