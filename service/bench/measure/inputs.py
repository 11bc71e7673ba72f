"""What the networks are fed with: the user's photos, or one fixed picture whose statistics are natural."""

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
from service.errors import InvalidParameter, WeighinError
from service.inference.decoding.decode import decode

SIDE = 512
MAX_PIXELS = 64_000_000


@lru_cache(maxsize=1)
def natural_picture() -> NDArray[np.uint8]:
    """A fixed picture, uint8 RGB (512, 512, 3), whose spectrum falls with 1/f as that of photographs does.

    Not black, not noise: constant inputs make some layers' values denormal or zero and others' saturate.
    """
    random = np.random.default_rng(2026)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :])
    frequency[0, 0] = np.inf

    def field() -> NDArray[np.float64]:
        spectrum = np.fft.rfft2(random.normal(size=(SIDE, SIDE))) / frequency
        values = np.fft.irfft2(spectrum, s=(SIDE, SIDE))
        normalised: NDArray[np.float64] = (values - values.mean()) / values.std()
        return normalised

    light = field()  # colours differ less than light and shade do
    channels = np.stack([0.9 * light + 0.4 * field() for _ in range(3)], axis=2)
    pixels: NDArray[np.uint8] = np.clip(118 + 55 * channels, 0, 255).astype(np.uint8)
    return pixels


def as_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """The picture, uint8 RGB (H, W, 3), as a JPEG of quality 90."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def describe_inputs(photos: Sequence[Path]) -> Inputs:
    """What will be run on, photos decoded once to be sure. InvalidParameter names one that cannot be used."""
    if not photos:
        digest = hashlib.sha256(natural_picture().tobytes()).hexdigest()
        return Inputs(kind="synthetic", count=1, sha256=(digest,))
    digests = []
    for photo in photos:
        try:
            data = photo.read_bytes()
            decode(data, shorter_side=224, max_pixels=MAX_PIXELS)
        except OSError as error:
            raise InvalidParameter(f"input {photo.name} cannot be read: {error.strerror}") from None
        except WeighinError as error:
            raise InvalidParameter(f"input {photo.name} cannot be used: {error.detail}") from None
        digests.append(hashlib.sha256(data).hexdigest())
    return Inputs(kind="photos", count=len(photos), sha256=tuple(digests))
