"""Fashion-MNIST from its four IDX files: whole, checked, and with a validation split that never moves."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import InputSpec
from models.zoo.preprocess import preprocess

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts the files."""
FETCHED = Path(".cache/fashion-mnist")
"""Where `make fashion` puts them without installing anything."""
WHERE = (
    "fetch them with `make fashion` or `apt install dataset-fashion-mnist` (Debian, Ubuntu), or take the "
    "four .gz files of https://github.com/zalandoresearch/fashion-mnist and name their folder with --data-dir"
)

TRAIN = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")

SPEC = InputSpec(
    height=28,
    width=28,
    channels=1,
    resize=28,
    mean=(72.94,),
    std=(90.02,),
    interpolation="bilinear",
    polarity="light-on-dark",
)
"""Mean and deviation are the 60 000 training images', to two digits."""


class DataError(ValueError):
    """The data set is missing or is not what it should be; the message says what, where and what to do."""


@dataclass(frozen=True)
class Dataset:
    """What the files of a data set must be. `sha256`: of each file's content without gzip, by file name."""

    name: str
    labels: str
    classes: int
    sha256: Mapping[str, str]


FASHION_MNIST = Dataset(
    name="Fashion-MNIST",
    labels="fashion-mnist",
    classes=10,
    sha256={
        TRAIN[0]: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        TRAIN[1]: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        TEST[0]: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        TEST[1]: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)


@dataclass(frozen=True)
class Images:
    """Grey images uint8 (N, height, width) and the class of each, int64 (N,)."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, indices: NDArray[np.int64]) -> Images:
        """Those images, in that order."""
        return Images(self.pixels[indices], self.classes[indices])


def default_folder() -> Path:
    """Where the data set is looked for when nobody says: what `make fashion` fetched, else Debian's place."""
    return FETCHED if FETCHED.is_dir() else DEBIAN


def load_train(folder: Path, dataset: Dataset = FASHION_MNIST) -> Images:
    """The images to learn from and to choose on. Raises DataError, with the file's name."""
    return _load(folder, TRAIN, dataset)


def load_test(folder: Path, dataset: Dataset = FASHION_MNIST) -> Images:
    """The images that only an evaluation may see, at the end. Raises DataError, with the file's name."""
    return _load(folder, TEST, dataset)


def split(images: Images, validation: int, seed: int) -> tuple[Images, Images]:
    """Images to learn from and `validation` others to choose on, as many of each class, by `seed` alone.

    Raises ValueError where `validation` does not divide by the classes or leaves a class nothing to learn.
    """
    counts = np.bincount(images.classes)
    each, left_over = divmod(validation, len(counts))
    if left_over or not 0 <= each < counts.min():
        raise ValueError(
            f"{validation} validation images of {len(images)} in {len(counts)} classes: give a multiple of "
            f"{len(counts)} below {len(counts) * counts.min()}"
        )
    random = np.random.default_rng(seed)
    members = [random.permutation(np.flatnonzero(images.classes == label)) for label in range(len(counts))]
    chosen = np.sort(np.concatenate([indices[:each] for indices in members]))
    rest = np.setdiff1d(np.arange(len(images)), chosen)
    return images.take(rest), images.take(chosen)


def tensors(pixels: NDArray[np.uint8], spec: InputSpec = SPEC) -> NDArray[np.float32]:
    """Grey images uint8 (N, H, W) as the network's input (N, 1, height, width), made as the service does."""
    out = np.empty((len(pixels), 1, spec.height, spec.width), dtype=np.float32)
    for index, image in enumerate(pixels):
        preprocess(np.broadcast_to(image[..., None], (*image.shape, 3)), spec, out[index : index + 1])
    return out


def _load(folder: Path, files: tuple[str, str], dataset: Dataset) -> Images:
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} with {dataset.name}; {WHERE}")
    pixels, classes = (_read(folder / name, dataset) for name in files)
    if pixels.ndim != 3 or classes.ndim != 1 or len(pixels) != len(classes) or len(pixels) == 0:
        raise DataError(f"{files[0]} is {pixels.shape} and {files[1]} {classes.shape} in {folder}; {WHERE}")
    if classes.max() >= dataset.classes:
        raise DataError(
            f"{files[1]} in {folder} has a class {classes.max()}; known: 0 to {dataset.classes - 1}"
        )
    return Images(pixels, classes.astype(np.int64))


def _read(path: Path, dataset: Dataset) -> NDArray[np.uint8]:
    """An IDX file of bytes: two zeros, the type, the number of dimensions, their 32-bit sizes, the values."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {WHERE}") from None
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}); {WHERE}") from error
    found, expected = hashlib.sha256(content).hexdigest(), dataset.sha256[path.name]
    if found != expected:
        raise DataError(
            f"{path} is not {dataset.name}'s: its content has SHA-256 {found}, expected is {expected}; "
            f"{WHERE}"
        )
    dimensions = content[3]
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], dtype=">u4").astype(int)
    if content[:3] != b"\0\0\x08" or len(content) != start + int(shape.prod()):
        raise DataError(f"{path} is no IDX file of bytes with {len(content)} bytes in all")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
