"""Random augmentation of training images.

It is drawn by a seed for all images of a pass at once, so that it can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.train.recipe import Augmentation


@dataclass(frozen=True)
class Draw:
    """How each of N images is augmented.

    `mirrored`, bool (N,), says whether the image is mirrored. `shift`, int64 (N, 2), says by how many rows it
    is moved down, and by how many columns it is moved right; both are from `-max_shift` to `max_shift`.
    `erased`, int64 (N, 4), has top, left, bottom and right of a rectangle to erase. If nothing is erased from
    an image, its rectangle has no area.
    """

    mirrored: Tensor
    shift: Tensor
    max_shift: int
    erased: Tensor

    def to(self, device: torch.device) -> Draw:
        """Return a copy on `device`."""
        return Draw(self.mirrored.to(device), self.shift.to(device), self.max_shift, self.erased.to(device))


def draw(count: int, size: int, config: Augmentation, seed: Sequence[int]) -> Draw:
    """Draw the augmentation of `count` images of `size` x `size` pixels. `seed` determines it.

    Rectangles to erase have sides in a ratio of 0.3 to 3.3: Zhong et al., "Random Erasing Data Augmentation",
    https://arxiv.org/abs/1708.04896.
    """
    random = np.random.default_rng(list(seed))
    mirrored = random.random(count) < config.mirror
    shift = random.integers(-config.shift, config.shift + 1, (count, 2))
    area = random.uniform(config.erase_smallest, config.erase_largest, count) * size * size
    ratio = np.exp(random.uniform(np.log(0.3), np.log(1 / 0.3), count))
    sides = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=1).round().clip(1, size)
    sides[random.random(count) >= config.erase] = 0
    corner = (random.random((count, 2)) * (size + 1 - sides)).astype(np.int64)
    erased = np.concatenate([corner, corner + sides.astype(np.int64)], axis=1)
    return Draw(torch.from_numpy(mirrored), torch.from_numpy(shift), config.shift, torch.from_numpy(erased))


def apply(images: Tensor, drawn: Draw, indices: Tensor, background: float) -> Tensor:
    """Return augmented copies of `images` (B, 1, S, S).

    `indices` (B,) says for each image at which position `drawn` has the image's augmentation. Pixels that a
    shift or an erasure leaves empty get the value `background`. All tensors are on one device.
    """
    size = images.shape[-1]
    pixels = torch.arange(size, device=images.device)
    shift = drawn.shift[indices]
    border = drawn.max_shift
    rows = pixels - shift[:, :1] + border
    columns = torch.where(drawn.mirrored[indices, None], size - 1 - pixels, pixels) - shift[:, 1:] + border
    padded = F.pad(images[:, 0], (border,) * 4, value=background)
    batch = torch.arange(len(images), device=images.device)
    moved = padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]
    top, left, bottom, right = drawn.erased[indices].T[:, :, None]
    erased_rows = (pixels >= top) & (pixels < bottom)
    erased_columns = (pixels >= left) & (pixels < right)
    return moved.masked_fill_(erased_rows[:, :, None] & erased_columns[:, None, :], background)[:, None]
