"""Width multiplier: scales all channels of a network, in multiples of 8 for vector units."""

from __future__ import annotations

import math


def scaled_channels(channels: int, multiplier: float, divisor: int = 8) -> int:
    """Return `channels * multiplier`, rounded to a multiple of `divisor`.

    It is the nearest multiple. If that is smaller than the exact product by more than 10 %, it is the next
    larger multiple. A multiplier of 1 returns `channels`, so that the network equals the published network.
    Raises ValueError, with the smallest allowed multiplier, if no channel is left.
    """
    exact = channels * multiplier
    if not math.isfinite(exact) or round(exact) < 1:
        raise ValueError(
            f"width multiplier: {multiplier:g} leaves none of {channels} channels "
            f"(allowed: {0.51 / channels:.2g} or more)"
        )
    if multiplier == 1:
        return channels
    rounded = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * exact else rounded
