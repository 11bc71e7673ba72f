"""Registry of network architectures by name, and the interface of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor, nn


class Network(Protocol):
    """Interface that every network has besides `nn.Module`'s, for export and profiling."""

    input_size: int
    """Height and width of the input images, in pixels."""

    input_channels: int
    """Channels of the input images: 3 for RGB, 1 for grey."""

    classifier: nn.Module
    """The last layer with weights: linear, from embedding to logits; or a pointwise convolution in a network
    that classifies each position and then averages (SqueezeNet)."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (N, input_channels, input_size, input_size) to the feature map (N, channels, h, w)."""
        ...

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Map the last feature map to logits (N, classes), or to the embedding (N, embedding)."""
        ...


Build = Callable[[int, float], nn.Module]
"""Factory of a network with initialised weights: build(classes, width_multiplier)."""


class Registry:
    """Factories of networks by unique name."""

    def __init__(self) -> None:
        self._builds: dict[str, Build] = {}

    def add(self, name: str, build: Build) -> None:
        """Register `build` under `name`. Raises ValueError if the name is taken."""
        if name in self._builds:
            raise ValueError(f"architecture {name!r}: already registered")
        self._builds[name] = build

    def create(self, name: str, classes: int = 1000, width_multiplier: float = 1.0) -> nn.Module:
        """Create a network with initialised weights, its channels scaled in multiples of 8.

        Raises ValueError for an unknown name, with the allowed ones, and for a multiplier that leaves no
        channel.
        """
        try:
            build = self._builds[name]
        except KeyError:
            known = ", ".join(self._builds) or "none"
            raise ValueError(f"architecture {name!r}: unknown (allowed: {known})") from None
        return build(classes, width_multiplier)

    def __iter__(self) -> Iterator[str]:
        return iter(self._builds)
