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
    """The last layer with weights. It is usually linear and computes the logits from the embedding. In a
    network that classifies each position and then averages (SqueezeNet), it is a pointwise convolution."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (N, input_channels, input_size, input_size) to the feature map (N, channels, h, w)."""
        ...

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return the logits (N, classes) for the last feature map.

        If `pre_logits` is true, return the embedding (N, embedding) instead.
        """
        ...


Build = Callable[[int, float], nn.Module]
"""Function that takes the number of classes and a width multiplier, and creates an initialised network."""


class Registry:
    """Functions that create networks, by the network's name."""

    def __init__(self) -> None:
        self._builds: dict[str, Build] = {}

    def add(self, name: str, build: Build) -> None:
        """Register `build` under `name`. Raises ValueError if the name is taken."""
        if name in self._builds:
            raise ValueError(f"architecture {name!r}: already registered")
        self._builds[name] = build

    def create(self, name: str, classes: int = 1000, width_multiplier: float = 1.0) -> nn.Module:
        """Create a network with initialised weights. Scaled numbers of channels are multiples of 8.

        Raises ValueError for an unknown name (the message has the allowed names), and for a width multiplier
        that leaves no channel.
        """
        try:
            build = self._builds[name]
        except KeyError:
            known = ", ".join(self._builds) or "none"
            raise ValueError(f"architecture {name!r}: unknown (allowed: {known})") from None
        return build(classes, width_multiplier)

    def __iter__(self) -> Iterator[str]:
        return iter(self._builds)
