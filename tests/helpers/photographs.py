"""Photographs of scikit-image, cached, read without its functions, whose import takes half a second."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@functools.cache
def astronaut() -> NDArray[np.uint8]:
    """Return scikit-image's astronaut, uint8 RGB (512, 512, 3), read-only; it has no symmetry."""
    return _photograph("astronaut.png")


@functools.cache
def cat() -> NDArray[np.uint8]:
    """Return scikit-image's cat, uint8 RGB (300, 451, 3), read-only."""
    return _photograph("chelsea.png")


def _photograph(name: str) -> NDArray[np.uint8]:
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / "data" / name) as image:
        pixels = np.array(image)
    pixels.flags.writeable = False
    return pixels
