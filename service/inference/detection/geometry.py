"""Convert coordinates in a network's input to coordinates in the upright original image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import InputSpec
from models.zoo.preprocess import Box, crop_box

DECIMALS = 2
"""Number of decimals to which coordinates in pixels are rounded."""


@dataclass(frozen=True, slots=True)
class Transformation:
    """Maps coordinates in a network's input to coordinates in the upright original image.

    `region`: left, top, right and bottom of the part of the original that the network sees, in pixels of the
    original. Where preprocessing adds borders, the region extends beyond the image. `input_size` and
    `image_size` are (width, height).
    """

    region: Box
    input_size: tuple[int, int]
    image_size: tuple[int, int]

    @classmethod
    def of(cls, spec: InputSpec, box: Box, image_size: tuple[int, int]) -> Transformation:
        """Return the transformation for an image that is preprocessed as `spec` says.

        `box`: the part of the decoded pixels that belongs to the image; the last row and column may do so
        only in part (see `preprocess`). `image_size`: width and height of the original, which may be decoded
        at a smaller size.
        """
        left, top, right, bottom = crop_box(spec, box)
        wide, high = image_size[0] / (box[2] - box[0]), image_size[1] / (box[3] - box[1])
        region = (
            (left - box[0]) * wide,
            (top - box[1]) * high,
            (right - box[0]) * wide,
            (bottom - box[1]) * high,
        )
        return cls(region, (spec.width, spec.height), image_size)

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points (..., 2), x and y, to the original, and round the results.

        A mapped point may lie outside of the image.
        """
        scale, start, _ = self._affine
        with np.errstate(over="ignore", invalid="ignore"):
            mapped: NDArray[np.float64] = (points * scale[:2] + start[:2]).round(DECIMALS)
        return mapped

    def boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map boxes (N, 4), left, top, right, bottom, to the original.

        The mapped boxes are clipped to the image and rounded. A box that lies outside of the image gets an
        area of zero.
        """
        scale, start, ends = self._affine
        with np.errstate(over="ignore", invalid="ignore"):
            mapped = boxes * scale + start
        clipped: NDArray[np.float64] = np.minimum(np.maximum(mapped, 0), ends).round(DECIMALS)
        return clipped

    @property
    def _affine(self) -> NDArray[np.float64]:
        """Return the scale and the offset of the mapping, and the size of the image, as float64 (3, 4).

        The four columns are for the coordinates x, y, x and y of a box.
        """
        left, top, right, bottom = self.region
        across, down = (right - left) / self.input_size[0], (bottom - top) / self.input_size[1]
        wide, high = self.image_size
        return np.array([(across, down) * 2, (left, top) * 2, (wide, high) * 2], np.float64)
