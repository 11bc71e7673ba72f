"""Input images of a benchmark: the user's photos, or one fixed picture with natural statistics."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bench.bundle import Inputs
from service.errors import InvalidParameter, WeighinError, error_words
from service.inference.decoding.decode import decode

SIDE = 512
MAX_PIXELS = 64_000_000


@lru_cache(maxsize=1)
def natural_picture() -> NDArray[np.uint8]:
    """Return a fixed picture, uint8 RGB (512, 512, 3), with a 1/f spectrum as in photographs.

    A constant image would make values of some layers denormal or zero, and saturate others.
    """
    random = np.random.default_rng(2026)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :])
    frequency[0, 0] = np.inf

    def field() -> NDArray[np.float64]:
        spectrum = np.fft.rfft2(random.normal(size=(SIDE, SIDE))) / frequency
        values = np.fft.irfft2(spectrum, s=(SIDE, SIDE))
        normalised: NDArray[np.float64] = (values - values.mean()) / values.std()
        return normalised

    light = field()  # in photographs, brightness varies more than colour
    channels = np.stack([0.9 * light + 0.4 * field() for _ in range(3)], axis=2)
    pixels: NDArray[np.uint8] = np.clip(118 + 55 * channels, 0, 255).astype(np.uint8)
    return pixels


def as_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 RGB (H, W, 3) as a JPEG of quality 90."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def describe_inputs(photos: Sequence[Path]) -> Inputs:
    """Describe the inputs and decode each photo once as a check. Raises InvalidParameter."""
    if not photos:
        digest = hashlib.sha256(natural_picture().tobytes()).hexdigest()
        return Inputs(kind="synthetic", count=1, sha256=(digest,))
    digests = []
    for photo in photos:
        try:
            data = photo.read_bytes()
            decode(data, shorter_side=224, max_pixels=MAX_PIXELS)
        except OSError as error:
            raise InvalidParameter(f"input {photo.name}: cannot be read: {error_words(error)}") from None
        except WeighinError as error:
            raise InvalidParameter(f"input {photo.name}: cannot be used: {error.detail}") from None
        digests.append(hashlib.sha256(data).hexdigest())
    return Inputs(kind="photos", count=len(photos), sha256=tuple(digests))
