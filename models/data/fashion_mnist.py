"""Load Fashion-MNIST from its four IDX files, verify their SHA-256, and split off validation images."""

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
"""Folder of Debian's package `dataset-fashion-mnist`."""
FETCHED = Path(".cache/fashion-mnist")
"""Folder to which `make fashion` downloads the files without installing a package."""
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
"""Preprocessing of Fashion-MNIST.

`mean` and `std` are the mean and the standard deviation of the 60 000 training images, to two decimals.
"""


class DataError(ValueError):
    """The data set is missing or damaged; the message names the file and says what to do."""


@dataclass(frozen=True)
class Dataset:
    """A data set of images in classes.

    `labels` is the name of its label set. `sha256` has the expected SHA-256 of each file's decompressed
    content, by file name.
    """

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
    """Grey images, uint8 (N, height, width), and the class of each image, int64 (N,)."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, indices: NDArray[np.int64]) -> Images:
        """Return the images at `indices`, int64 (n,), in the order of `indices`."""
        return Images(self.pixels[indices], self.classes[indices])


def default_folder() -> Path:
    """Return the default folder of the data set: FETCHED if this folder exists, otherwise DEBIAN."""
    return FETCHED if FETCHED.is_dir() else DEBIAN


def load_train(folder: Path, dataset: Dataset = FASHION_MNIST) -> Images:
    """Load the training images, including those that are later split off for validation.

    Raises DataError, whose message names the file, if a file is missing or damaged.
    """
    return _load(folder, TRAIN, dataset)


def load_test(folder: Path, dataset: Dataset = FASHION_MNIST) -> Images:
    """Load the test images, which are for final evaluation only.

    Raises DataError, whose message names the file, if a file is missing or damaged.
    """
    return _load(folder, TEST, dataset)


def split(images: Images, validation: int, seed: int) -> tuple[Images, Images]:
    """Return the remaining training images and `validation` validation images.

    The validation images are drawn by `seed`, equally many of each class.

    Raises ValueError if `validation` is not a multiple of the number of classes, or if a class would have no
    training images left.
    """
    counts = np.bincount(images.classes)
    per_class, remainder = divmod(validation, len(counts))
    if remainder or not 0 <= per_class < counts.min():
        raise ValueError(
            f"validation: {validation} of {len(images)} images in {len(counts)} classes (allowed: a multiple "
            f"of {len(counts)} below {len(counts) * counts.min()})"
        )
    random = np.random.default_rng(seed)
    members = [random.permutation(np.flatnonzero(images.classes == label)) for label in range(len(counts))]
    held_out = np.sort(np.concatenate([indices[:per_class] for indices in members]))
    rest = np.setdiff1d(np.arange(len(images)), held_out)
    return images.take(rest), images.take(held_out)


def tensors(pixels: NDArray[np.uint8], spec: InputSpec = SPEC) -> NDArray[np.float32]:
    """Return grey images, uint8 (N, H, W), preprocessed as in the service, float32 (N, 1, height, width)."""
    out = np.empty((len(pixels), 1, spec.height, spec.width), dtype=np.float32)
    for index, image in enumerate(pixels):
        preprocess(np.broadcast_to(image[..., None], (*image.shape, 3)), spec, out[index : index + 1])
    return out


def _load(folder: Path, files: tuple[str, str], dataset: Dataset) -> Images:
    if not folder.is_dir():
        raise DataError(f"{dataset.name}: no folder {folder}; {WHERE}")
    pixels, classes = (_read(folder / name, dataset) for name in files)
    if pixels.ndim != 3 or classes.ndim != 1 or len(pixels) != len(classes) or len(pixels) == 0:
        raise DataError(
            f"{folder}: shapes {pixels.shape} in {files[0]} and {classes.shape} in {files[1]} do not match; "
            f"{WHERE}"
        )
    if classes.max() >= dataset.classes:
        raise DataError(f"{folder / files[1]}: class {classes.max()} (allowed: 0 to {dataset.classes - 1})")
    return Images(pixels, classes.astype(np.int64))


def _read(path: Path, dataset: Dataset) -> NDArray[np.uint8]:
    """Read a compressed IDX file whose values are bytes, and check its SHA-256.

    An IDX file begins with two zero bytes, the type of the values, the number of dimensions, and the size of
    each dimension in 32 bits. The values follow.
    """
    try:
        content = gzip.decompress(path.read_bytes())  # twice as fast as reading through gzip.open
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {WHERE}") from None
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: truncated or damaged ({error}); {WHERE}") from error
    digest, expected = hashlib.sha256(content).hexdigest(), dataset.sha256[path.name]
    if digest != expected:
        raise DataError(
            f"{path}: not a file of {dataset.name}: its content has SHA-256 {digest} (allowed: {expected}); "
            f"{WHERE}"
        )
    dimensions = content[3]
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], dtype=">u4").astype(int)
    if content[:3] != b"\0\0\x08" or len(content) != start + int(shape.prod()):
        raise DataError(f"{path}: not an IDX file, or its header does not describe {len(content)} bytes")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
