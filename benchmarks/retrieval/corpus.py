"""Images to embed: reproducible crops of real photographs, and Fashion-MNIST."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

CACHE = Path(__file__).parents[2] / ".cache"
PACKAGES = (
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
)
READ_AT = 1024
"""Shorter side, in pixels, to which photographs are reduced before they are cropped. Most crops are then no
larger than the networks' input, and cropping costs less than embedding."""
SHARES = (0.1, 0.6)
"""Smallest and largest side of a crop, as shares of the photograph's shorter side. Sides are distributed
log-uniformly between the two."""

Pixels = NDArray[np.uint8]


class MissingDataError(Exception):
    """Images are missing. The message names the folder, and the command that downloads them."""


def photographs(folder: Path = CACHE / "photos") -> list[Path]:
    """Return the photographs of `make photos`, sorted by package and name. Raises MissingDataError."""
    paths = [path for package in PACKAGES for path in sorted((folder / package).glob("*.jpg"))]
    if not paths:
        raise MissingDataError(f"{folder}: no photographs; run: make photos")
    return paths


def read_photograph(path: Path, shorter_side: int = READ_AT) -> Pixels:
    """Read a photograph upright, uint8 RGB (H, W, 3), reduced to `shorter_side` if it is larger."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    scale = shorter_side / min(image.size)
    if scale < 1:
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image)


class Crops:
    """A series of square crops of photographs, with `per_photograph` crops of each photograph.

    Crop i is from photograph i // per_photograph. Each crop has its own seed, so that reading can start at
    any crop. If more crops are taken from a photograph, the first ones stay the same.
    """

    def __init__(self, per_photograph: int) -> None:
        self._paths = photographs()
        self._per_photograph = per_photograph

    def __len__(self) -> int:
        return len(self._paths) * self._per_photograph

    def since(self, first: int) -> Iterator[Pixels]:
        """Yield the crops from number `first` on, uint8 RGB (side, side, 3)."""
        for number in range(first, len(self)):
            path = self._paths[number // self._per_photograph]
            pixels = _photograph(path)
            height, width = pixels.shape[:2]
            random = np.random.default_rng([number % self._per_photograph, *path.name.encode()])
            share = np.exp(random.uniform(*np.log(SHARES)))
            side = round(min(height, width) * float(share))
            top, left = random.integers(0, [height - side + 1, width - side + 1])
            yield pixels[top : top + side, left : left + side]


class FashionMnist:
    """Fashion-MNIST's 60 000 training images, then its 10 000 test images, with their classes."""

    def __init__(self, folder: Path = CACHE / "fashion-mnist") -> None:
        try:
            parts = [_read_idx(folder / f"{part}-images-idx3-ubyte.gz", 16) for part in ("train", "t10k")]
            labels = [_read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 8) for part in ("train", "t10k")]
        except FileNotFoundError as error:
            raise MissingDataError(
                f"{error.filename}: missing; run: make fashion "
                "(or link the folder to /usr/share/datasets/fashion-mnist of Debian's dataset-fashion-mnist)"
            ) from None
        self.pixels = np.concatenate([part.reshape(-1, 28, 28) for part in parts])
        self.classes = np.concatenate(labels).astype(np.int64)
        self.train = len(labels[0])

    def __len__(self) -> int:
        return len(self.pixels)

    def since(self, first: int) -> Iterator[Pixels]:
        """Yield the images from number `first` on, as RGB with equal channels, uint8 (28, 28, 3)."""
        for image in self.pixels[first:]:
            yield np.repeat(image[..., None], 3, axis=2)


@lru_cache(maxsize=2)
def _photograph(path: Path) -> Pixels:
    return read_photograph(path)


def _read_idx(path: Path, header: int) -> Pixels:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header)
