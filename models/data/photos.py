"""Crops of large photographs: natural images for calibration and for measuring agreement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.errors import ModelsError

SHARES = (1.0, 0.75, 0.5, 0.35)
"""Sides of successive crops, as shares of the photograph's shorter side."""
SMALLEST = 320
"""Minimum side of a crop in pixels, larger than every network's input."""


class MissingPhotosError(ModelsError):
    """A package's photographs are missing."""


def photographs(folder: Path, packages: Sequence[str]) -> list[Path]:
    """Return the JPEG files of `packages` in `folder`, where `fetch-photos` put them, sorted by name.

    Raises MissingPhotosError for a package without files.
    """
    paths: list[Path] = []
    for package in packages:
        files = sorted((folder / package).glob("*.jpg"))
        if not files:
            raise MissingPhotosError(f"{folder / package}: no photographs; run: make photos")
        paths += files
    return paths


def crops(
    folder: Path, packages: Sequence[str], per_photograph: int, seed: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """Yield square crops of every photograph, uint8 RGB (side, side, 3); every call yields the same crops.

    The side of a crop is a share of the photograph's shorter side. Successive crops use the shares in SHARES
    in turn. If a side would be less than SMALLEST, it is SMALLEST instead, or the whole shorter side if this
    is less than SMALLEST. The first crop is the largest and lies in the centre of the photograph. The
    positions of the others are drawn from `seed` and the photograph's name, so they do not depend on the list
    of packages.
    Raises MissingPhotosError for a package without files.
    """
    for path in photographs(folder, packages):
        pixels = _read(path)
        height, width = pixels.shape[:2]
        short = min(height, width)
        random = np.random.default_rng([seed, *path.name.encode()])
        for index in range(per_photograph):
            side = max(round(short * SHARES[index % len(SHARES)]), min(SMALLEST, short))
            if index == 0:
                top, left = (height - side) // 2, (width - side) // 2
            else:
                top = int(random.integers(0, height - side + 1))
                left = int(random.integers(0, width - side + 1))
            yield pixels[top : top + side, left : left + side]


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
