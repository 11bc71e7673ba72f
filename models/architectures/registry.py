"""Networks by name; a name is given once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor, nn


class Network(Protocol):
    """What every network offers besides being an `nn.Module`, so that it can be exported and profiled."""

    input_size: int
    """Height and width of the images that it takes, in pixels."""

    input_channels: int
    """Channels of those images: 3, or 1 for grey ones."""

    classifier: nn.Module
    """The last layer with weights: linear, from the embedding to the logits; or, in a network that classifies
    each place of the features before it averages (SqueezeNet), the pointwise convolution that does."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, input_channels, input_size, input_size) to the last feature map (N, channels, h, w)."""
        ...

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """The last feature map to logits (N, classes), or to the embedding (N, embedding) before them."""
        ...


Build = Callable[[int, float], nn.Module]
"""Makes a network with freshly initialised weights for so many classes and a width multiplier."""


class Registry:
    """Networks by name."""

    def __init__(self) -> None:
        self._builds: dict[str, Build] = {}

    def add(self, name: str, build: Build) -> None:
        """Give `build` a name. Raises ValueError when the name is taken."""
        if name in self._builds:
            raise ValueError(f"there is an architecture named {name!r} already")
        self._builds[name] = build

    def create(self, name: str, classes: int = 1000, width_multiplier: float = 1.0) -> nn.Module:
        """A network with freshly initialised weights, its channels scaled in multiples of 8.

        Raises ValueError, with the known names, for others, and for a multiplier that leaves no channel.
        """
        try:
            build = self._builds[name]
        except KeyError:
            known = ", ".join(self._builds) or "none"
            raise ValueError(f"there is no architecture named {name!r}; known: {known}") from None
        return build(classes, width_multiplier)

    def __iter__(self) -> Iterator[str]:
        return iter(self._builds)
