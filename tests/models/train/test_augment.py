"""Augmentation against a plain loop over pixels."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.train.augment import apply, draw  # noqa: E402
from models.train.recipe import Augmentation, read_config  # noqa: E402

pytestmark = pytest.mark.torch

BACKGROUND = -0.8


def expected(image: torch.Tensor, mirrored: bool, shift: list[int], erased: list[int]) -> torch.Tensor:
    """Augment one image (S, S) pixel by pixel."""
    size = image.shape[0]
    out = torch.full_like(image, BACKGROUND)
    for row in range(size):
        for column in range(size):
            source_row, source_column = row - shift[0], column - shift[1]
            if mirrored:
                source_column = size - 1 - column - shift[1]
            if 0 <= source_row < size and 0 <= source_column < size:
                out[row, column] = image[source_row, source_column]
            if erased[0] <= row < erased[2] and erased[1] <= column < erased[3]:
                out[row, column] = BACKGROUND
    return out


def test_augmentation_equals_pixel_loop() -> None:
    config = read_config().augmentation
    images = torch.randn(40, 1, 28, 28)
    drawn = draw(100, 28, config, (1, 2))
    indices = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:40]
    found = apply(images, drawn, indices, BACKGROUND)
    for image, index, result in zip(images[:, 0], indices, found[:, 0], strict=True):
        mirrored, shift = bool(drawn.mirrored[index]), drawn.shift[index].tolist()
        assert torch.equal(result, expected(image, mirrored, shift, drawn.erased[index].tolist()))


def test_bounds_and_frequency_of_draws() -> None:
    config = read_config().augmentation
    drawn = draw(20_000, 28, config, (3,))
    assert drawn.mirrored.double().mean() == pytest.approx(config.mirror, abs=0.02)
    assert (int(drawn.shift.min()), int(drawn.shift.max())) == (-config.shift, config.shift)
    top, left, bottom, right = drawn.erased.T
    assert int(drawn.erased.min()) >= 0
    assert int(drawn.erased.max()) <= 28
    share = ((bottom - top) * (right - left)).double() / 28**2
    assert (share > 0).double().mean() == pytest.approx(config.erase, abs=0.02)
    assert share.max() < config.erase_largest * 1.3


def test_draws_depend_on_the_seed() -> None:
    config = read_config().augmentation
    first, again, other = (draw(50, 28, config, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(first.erased, again.erased)
    assert torch.equal(first.shift, again.shift)
    assert not torch.equal(first.erased, other.erased)


def test_augmentation_of_zero_strength() -> None:
    config = Augmentation(mirror=0, shift=0, erase=0, erase_smallest=0.1, erase_largest=0.2)
    images = torch.randn(5, 1, 28, 28)
    assert torch.equal(apply(images, draw(5, 28, config, (0,)), torch.arange(5), BACKGROUND), images)
