"""Shape, the description of size and channels from which every kind of block is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.blocks.arguments import check_positive


@dataclass(frozen=True)
class Shape:
    """Channels, kernel and stride of a block, and the side of its square input map in pixels.

    Some blocks have `groups`, a `ratio` (inner width relative to the input or output) or `squeezed` (middle
    channels of squeeze-and-excitation); the others ignore them. Raises ValueError for numbers below 1 or an
    even kernel.
    """

    inputs: int
    outputs: int
    kernel: int = 3
    size: int = 56
    stride: int = 1
    groups: int | Literal["depthwise"] = 1
    ratio: float | None = None
    squeezed: int | None = None

    def __post_init__(self) -> None:
        check_positive(
            inputs=self.inputs, outputs=self.outputs, kernel=self.kernel, size=self.size, stride=self.stride
        )
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: {self.kernel} (allowed: an odd number)")

    @property
    def output_size(self) -> int:
        """Side of the output map in pixels."""
        return -(-self.size // self.stride)

    def ratio_or(self, default: float) -> float:
        """Return `ratio`, or `default` if `ratio` is None."""
        return default if self.ratio is None else self.ratio

    def groups_of(self, channels: int) -> int:
        """Return the number of groups of a convolution with `channels` channels.

        This is `groups`. If `groups` is "depthwise", each channel is a group of its own.
        """
        return channels if self.groups == "depthwise" else self.groups
