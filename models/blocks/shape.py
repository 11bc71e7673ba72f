"""What a block is asked for, in the same words for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.blocks.arguments import check_positive


@dataclass(frozen=True)
class Shape:
    """What a block is asked for: its channels, kernel and stride, and the side of its square input map.

    `groups`, `ratio` and `squeezed` are what a block of that kind makes of them: its number of groups; how
    far it widens or narrows inside; the channels in the middle of its squeeze-and-excitation, if any.
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
            raise ValueError(f"kernel is {self.kernel}; an odd number is needed")

    @property
    def output_size(self) -> int:
        return -(-self.size // self.stride)

    def ratio_or(self, default: float) -> float:
        return default if self.ratio is None else self.ratio

    def groups_of(self, channels: int) -> int:
        """The number of groups in a convolution of so many channels."""
        return channels if self.groups == "depthwise" else self.groups
