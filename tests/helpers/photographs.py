"""A photograph, cached: scikit-image reads and decodes its file at every call."""

from __future__ import annotations

import functools

import numpy as np
import skimage.data
from numpy.typing import NDArray


@functools.cache
def astronaut() -> NDArray[np.uint8]:
    """Return scikit-image's astronaut, uint8 RGB (512, 512, 3), read-only; it has no symmetry."""
    pixels: NDArray[np.uint8] = skimage.data.astronaut()
    pixels.flags.writeable = False
    return pixels
