"""Folding of batch norms into convolutions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


def fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place, without changing the outputs.

    A batch norm must directly follow its convolution in the parent module. The network must be in evaluation
    mode.
    """
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (_, convolution), (name, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(convolution, norm)
                setattr(parent, name, nn.Identity())


@torch.no_grad()
def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    # The square root is taken in float64, because torch rounds square roots in float32 incorrectly.
    scale = norm.weight / (norm.running_var + norm.eps).double().sqrt().to(norm.weight.dtype)
    bias = 0 if convolution.bias is None else convolution.bias
    convolution.weight.mul_(scale[:, None, None, None])
    convolution.bias = nn.Parameter(norm.bias + (bias - norm.running_mean) * scale)
