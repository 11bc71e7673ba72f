"""Answers of two networks on the same pictures, with known discordance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def answers(n: int, only_base: int, only_new: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which of `n` pictures the base and the new network answer correctly, each bool (n,).

    Both answer all correctly, but those that only the other one does.
    """
    base, new = np.ones(n, bool), np.ones(n, bool)
    new[:only_base] = False
    base[only_base : only_base + only_new] = False
    return base, new
