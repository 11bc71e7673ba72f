"""Crops of large photographs: the natural images that calibration learns from and agreement is judged on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.errors import ModelsError

SHARES = (1.0, 0.75, 0.5, 0.35)
"""Sides of the crops, as shares of the photograph's shorter side; they take turns."""
SMALLEST = 320
"""Pixels below which a crop is no longer larger than what the networks look at."""


class MissingPhotosError(ModelsError):
    """There are no photographs where they were looked for."""


def photographs(folder: Path, packages: Sequence[str]) -> list[Path]:
    """The JPEG files of these packages below `folder`, as `fetch-photos` puts them there, sorted by name.

    Raises MissingPhotosError where a package has none.
    """
    found: list[Path] = []
    for package in packages:
        files = sorted((folder / package).glob("*.jpg"))
        if not files:
            raise MissingPhotosError(f"no photographs of {package} in {folder}; fetch them: make photos")
        found += files
    return found


def crops(
    folder: Path, packages: Sequence[str], per_photograph: int, seed: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """Square crops of every photograph, uint8 RGB (side, side, 3), the same ones every time.

    The first is the largest in the centre; the others have the sides SHARES in turn, at places drawn from
    `seed` and the photograph's name, so that another list of packages does not move them. No side is below
    SMALLEST, or below the photograph's own shorter side where that is less.
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
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
