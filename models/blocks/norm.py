"""Batch normalisation settings, which differ between networks and frameworks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Norm:
    """Settings of batch normalisation (Ioffe and Szegedy, https://arxiv.org/abs/1502.03167).

    `eps` is added to the variance. `momentum` is the weight with which each batch enters the running mean and
    variance. The defaults are PyTorch's. Raises ValueError unless eps > 0 and 0 < momentum <= 1.
    """

    eps: float = 1e-5
    momentum: float = 0.1

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ValueError(f"eps: {self.eps} (allowed: more than 0)")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum: {self.momentum} (allowed: more than 0, at most 1)")

    def over(self, channels: int) -> nn.BatchNorm2d:
        """Create a batch norm layer for maps (N, channels, H, W)."""
        return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)


TENSORFLOW = Norm(eps=1e-3, momentum=0.01)
"""Settings of networks published with TensorFlow."""
