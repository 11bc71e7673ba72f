"""The pictures that are embedded: crops of real photographs and Fashion-MNIST, the same ones every time."""

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
"""Pixels of the shorter side at which a photograph is cropped: most crops are then of the size of the
networks' input or below, and cutting them costs less than embedding them."""
SHARES = (0.1, 0.6)
"""Smallest and largest side of a crop, as shares of the photograph's shorter side; between them evenly in
the logarithm."""

Pixels = NDArray[np.uint8]


class MissingDataError(Exception):
    """Pictures are not where they were looked for; the message says what to run."""


def photographs(folder: Path = CACHE / "photos") -> list[Path]:
    """The large photographs of `make photos`, sorted by package and name."""
    found = [path for package in PACKAGES for path in sorted((folder / package).glob("*.jpg"))]
    if not found:
        raise MissingDataError(f"there are no photographs in {folder}; fetch them with: make photos")
    return found


def read_photograph(path: Path, shorter_side: int = READ_AT) -> Pixels:
    """A photograph, upright, uint8 RGB (H, W, 3), reduced to `shorter_side` where it is larger."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    scale = shorter_side / min(image.size)
    if scale < 1:
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image)


class Crops:
    """`per_photograph` square crops of every photograph: number i is of photograph i // per_photograph.

    Each is drawn from its own seed, so that reading may begin anywhere and a longer series begins with the
    shorter one's places.
    """

    def __init__(self, per_photograph: int) -> None:
        self._paths = photographs()
        self._each = per_photograph

    def __len__(self) -> int:
        return len(self._paths) * self._each

    def since(self, first: int) -> Iterator[Pixels]:
        """The crops from number `first` on, uint8 RGB (side, side, 3)."""
        for number in range(first, len(self)):
            path = self._paths[number // self._each]
            pixels = _photograph(path)
            height, width = pixels.shape[:2]
            random = np.random.default_rng([number % self._each, *path.name.encode()])
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
                f"{error.filename} is missing; put Fashion-MNIST there with: make fashion "
                "(or link the folder to /usr/share/datasets/fashion-mnist of Debian's dataset-fashion-mnist)"
            ) from None
        self.pixels = np.concatenate([part.reshape(-1, 28, 28) for part in parts])
        self.classes = np.concatenate(labels).astype(np.int64)
        self.train = len(labels[0])

    def __len__(self) -> int:
        return len(self.pixels)

    def since(self, first: int) -> Iterator[Pixels]:
        """The images from number `first` on as grey RGB, uint8 (28, 28, 3)."""
        for image in self.pixels[first:]:
            yield np.repeat(image[..., None], 3, axis=2)


@lru_cache(maxsize=2)
def _photograph(path: Path) -> Pixels:
    return read_photograph(path)


def _read_idx(path: Path, header: int) -> Pixels:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header)
