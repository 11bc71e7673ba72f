"""Pictures for the gallery's tests: photographs, and as many others as are needed."""

from __future__ import annotations

import io

import numpy as np
import skimage.data
from PIL import Image

PHOTOS = ("cat", "coffee", "rocket", "astronaut")


def photo(name: str) -> Image.Image:
    """A photograph that comes with scikit-image."""
    return Image.fromarray(getattr(skimage.data, name)())


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def jpeg(name: str) -> bytes:
    """A photograph as a JPEG."""
    return encoded(photo(name), quality=90)


def blobs(seed: int, side: int = 48) -> bytes:
    """A small PNG of coloured blobs; another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return encoded(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), "PNG")
