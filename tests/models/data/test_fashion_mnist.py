"""Reading the data set, errors of damaged files, and a reproducible split."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from models.data.fashion_mnist import (
    SPEC,
    TEST,
    TRAIN,
    DataError,
    Dataset,
    Images,
    load_test,
    load_train,
    split,
    tensors,
)
from tests.helpers.tiny_fashion import idx, make_tiny_fashion


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Dataset]:
    folder = tmp_path / "data"
    return folder, make_tiny_fashion(folder)


def test_images_and_classes_are_read(tiny: tuple[Path, Dataset]) -> None:
    images = load_train(*tiny)
    assert images.pixels.shape == (256, 28, 28)
    assert images.pixels.dtype == np.uint8
    assert images.classes.tolist()[:6] == [0, 1, 2, 3, 0, 1]
    assert len(load_test(*tiny)) == 64


def test_training_without_test_files(tiny: tuple[Path, Dataset]) -> None:
    for name in TEST:
        (tiny[0] / name).unlink()
    assert len(load_train(*tiny)) == 256
    with pytest.raises(DataError, match=f"{TEST[0]}: missing"):
        load_test(*tiny)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"Fashion-MNIST: no folder .*nowhere; .*apt install dataset-fashion-mnist.*--data-dir",
    ):
        load_train(tmp_path / "nowhere")


def test_missing_file(tiny: tuple[Path, Dataset]) -> None:
    (tiny[0] / TRAIN[1]).unlink()
    with pytest.raises(DataError, match=f"{TRAIN[1]}: missing; fetch"):
        load_train(*tiny)


@pytest.mark.parametrize("keep", [0, 5, 2000, -9, -1])
def test_truncated_file(tiny: tuple[Path, Dataset], keep: int) -> None:
    path = tiny[0] / TRAIN[0]
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"{TRAIN[0]}: (truncated|not a file of bars)"):
        load_train(*tiny)


@pytest.mark.parametrize("where", [2, 400, -6])
def test_changed_byte(tiny: tuple[Path, Dataset], where: int) -> None:
    path = tiny[0] / TRAIN[0]
    content = bytearray(path.read_bytes())
    content[where] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(DataError, match=TRAIN[0]):
        load_train(*tiny)


def test_content_with_another_checksum(tiny: tuple[Path, Dataset]) -> None:
    path = tiny[0] / TRAIN[1]
    path.write_bytes(gzip.compress(idx(np.zeros(256, dtype=np.uint8))))
    with pytest.raises(
        DataError, match=f"{TRAIN[1]}: not a file of bars: its content has SHA-256 [0-9a-f]{{64}}"
    ):
        load_train(*tiny)


def test_recompressed_file(tiny: tuple[Path, Dataset]) -> None:
    path = tiny[0] / TRAIN[0]
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=12345))
    assert len(load_train(*tiny)) == 256


def test_split_is_even_disjoint_and_reproducible(tiny: tuple[Path, Dataset]) -> None:
    images = load_train(*tiny)
    numbered = Images(np.arange(256).reshape(256, 1, 1), images.classes)  # type: ignore[arg-type]
    rest, chosen = split(numbered, 40, seed=3)
    assert (len(rest), np.bincount(chosen.classes).tolist()) == (216, [10, 10, 10, 10])
    ours, theirs = set(rest.pixels.flat), set(chosen.pixels.flat)
    assert ours | theirs == set(range(256))
    assert not ours & theirs
    again = split(numbered, 40, seed=3)[1]
    assert np.array_equal(again.pixels, chosen.pixels)
    assert not np.array_equal(split(numbered, 40, seed=4)[1].pixels, chosen.pixels)
    assert len(split(numbered, 0, seed=3)[0]) == 256


@pytest.mark.parametrize("validation", [41, -4, 256])
def test_invalid_split(tiny: tuple[Path, Dataset], validation: int) -> None:
    with pytest.raises(ValueError, match="allowed: a multiple of 4 below 256"):
        split(load_train(*tiny), validation, seed=0)


def test_tensors_are_normalised_and_inverted(tiny: tuple[Path, Dataset]) -> None:
    pixels = load_train(*tiny).pixels[:8]
    found = tensors(pixels)
    assert found.shape == (8, 1, 28, 28)
    np.testing.assert_allclose(
        found[:, 0], (pixels.astype(np.float64) - SPEC.mean[0]) / SPEC.std[0], atol=1e-5
    )
    np.testing.assert_allclose(tensors(255 - pixels), found, atol=1e-5)
