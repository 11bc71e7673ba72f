"""What of a network becomes int8, and how the ranges of its activations are found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Plan:
    """How a network is quantized.

    `keep_float`: modules that stay in floating point, each with all that lies below it (`blocks.0` keeps
    `blocks.0.conv_dw`). `percentile`: with that method, the share of an activation's values, in percent, that
    its range must hold. `correct_biases`: whether the rounding's systematic shift is taken back.
    """

    keep_float: tuple[str, ...] = ()
    method: Literal["minmax", "percentile", "entropy"] = "minmax"
    percentile: float = 99.999
    correct_biases: bool = True

    def keeps(self, node: str) -> bool:
        """Whether a node of the exported graph stays in floating point."""
        return any(node == module or node.startswith(f"{module}.") for module in self.keep_float)
