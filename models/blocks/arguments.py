"""Argument checks that all blocks share."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

Activation = Callable[[], nn.Module]
"""Function that creates an activation module, e.g. `nn.ReLU6`. It is called again for each use."""


def check_positive(**values: int) -> None:
    """Raise ValueError unless each value is an integer of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: {value!r} (allowed: a whole number, 1 or more)")


def check_groups(groups: int, **channels: int) -> None:
    """Raise ValueError, whose message has the allowed numbers, unless `groups` divides each of `channels`."""
    check_positive(groups=groups, **channels)
    common = math.gcd(*channels.values())
    if common % groups:
        given = " and ".join(f"{name} {value}" for name, value in channels.items())
        allowed = ", ".join(str(number) for number in range(1, common + 1) if common % number == 0)
        raise ValueError(f"groups: {groups} do not divide {given} (allowed: {allowed})")


def check_even(**channels: int) -> None:
    """Raise ValueError unless each number of channels is positive and even."""
    check_positive(**channels)
    for name, value in channels.items():
        if value % 2:
            raise ValueError(f"{name}: {value} cannot be split into halves (allowed: an even number)")


def share_of(channels: int, share: float, *, name: str, of: str) -> int:
    """Return `channels * share` rounded to an integer.

    Raises ValueError, with the smallest allowed share, if the result is 0. `name` and `of` name the two
    arguments in the message.
    """
    check_positive(**{of: channels})
    width = round(channels * share) if math.isfinite(share) else 0
    if width < 1:
        raise ValueError(
            f"{name}: {share:g} leaves no channel of {of} {channels} (allowed: {1 / channels:.3g} or more)"
        )
    return width


def make_activation(activation: Activation | None) -> nn.Module:
    """Create an activation module. If `activation` is None, create a module that changes nothing.

    Raises ValueError if `activation` is not a function that creates a module.
    """
    if activation is None:
        return nn.Identity()
    is_factory = callable(activation) and not isinstance(activation, nn.Module)
    module = activation() if is_factory else None
    if not isinstance(module, nn.Module):
        raise ValueError(f"activation: {activation!r} (allowed: a factory of modules, e.g. nn.ReLU, or None)")
    return module
