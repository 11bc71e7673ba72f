"""Random weights, for the start of training and as a stand-in for trained weights in tests."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def initialise(network: nn.Module) -> None:
    """Initialise all layers so that activations keep their scale (He et al., arXiv:1502.01852).

    Linear layers get small weights and biases of 0. Batch norms keep PyTorch's defaults.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)


@torch.no_grad()
def randomise(network: nn.Module, seed: int, images: Tensor, shift: float = 0.0) -> None:
    """Set random weights that resemble trained weights: all batch norms and biases have an effect.

    A freshly initialised network may compute with denormal numbers. Its logits are about 1e-8, so a
    comparison "within 1e-4" proves nothing. Here, as in training, batch norms take means and variances from
    `images` (N, channels, H, W), so activations keep their scale through any number of layers. The means and
    variances are then changed at random; weights and biases are random too.

    `shift` is the mean of the batch norms' biases. With 0, a random network magnifies the smallest difference
    between two images from layer to layer, unlike a trained one. With 1, most activations pass their ReLU,
    and differences hardly grow.
    """
    random = torch.Generator().manual_seed(seed)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=random)
            if module.bias is not None:
                module.bias.normal_(0.0, 0.1, generator=random)
    for norm in norms:
        norm.weight.uniform_(0.7, 1.3, generator=random)
        norm.bias.normal_(shift, 0.2, generator=random)
    _observe(network, norms, images)
    for norm in norms:
        mean, variance = norm.running_mean, norm.running_var
        if mean is not None and variance is not None:
            mean += 0.2 * variance.sqrt() * torch.randn(mean.shape, generator=random)
            variance *= torch.empty_like(variance).uniform_(0.7, 1.4, generator=random)


def _observe(network: nn.Module, norms: list[nn.BatchNorm2d], images: Tensor) -> None:
    """Set the running means and variances of the batch norms `norms` to the values that `images` cause."""
    training = network.training
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(training)
