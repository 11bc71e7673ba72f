"""The width multiplier: all channels of a network scaled by one factor, in steps that vector units like."""

from __future__ import annotations

import math


def scaled_channels(channels: int, multiplier: float, divisor: int = 8) -> int:
    """`channels * multiplier`, to the nearest multiple of `divisor` that is not over 10 % less.

    With a multiplier of 1 the network is the published one, whatever its numbers are.
    Raises ValueError, with the smallest multiplier that would do, where it leaves no channel.
    """
    wanted = channels * multiplier
    if not math.isfinite(wanted) or round(wanted) < 1:
        raise ValueError(
            f"width multiplier {multiplier:g} leaves none of {channels} channels; "
            f"at least {0.51 / channels:.2g} is needed"
        )
    if multiplier == 1:
        return channels
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * wanted else rounded
