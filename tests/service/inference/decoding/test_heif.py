"""HEIC as iPhones write it, where the extra `heif` is installed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service.errors import TooManyPixels, UndecodableImage
from service.inference.decoding.decode import decode
from tests.helpers.photographs import astronaut

pytestmark = pytest.mark.heif


@pytest.fixture(scope="module")
def heic() -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    picture = Image.fromarray(astronaut()).resize((120, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    pillow_heif.from_pillow(picture).save(buffer, quality=95, exif=exif.tobytes())
    return buffer.getvalue()


def test_heic_is_decoded_with_orientation(heic: bytes) -> None:
    image = decode(heic, shorter_side=80, max_pixels=10_000)
    assert (image.format, image.width, image.height) == ("heif", 80, 120)
    source = np.rot90(np.asarray(Image.fromarray(astronaut()).resize((120, 80))), -1)
    assert np.abs(image.pixels.astype(int) - source).mean() < 4


def test_heic_size_is_checked_before_decoding(heic: bytes) -> None:
    with pytest.raises(TooManyPixels, match=r"HEIF: 120 x 80|HEIF: 80 x 120"):
        decode(heic, shorter_side=80, max_pixels=9_599)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_truncated_heic_is_refused(heic: bytes, part: float) -> None:
    with pytest.raises(UndecodableImage):
        decode(heic[: int(len(heic) * part)], shorter_side=80, max_pixels=10_000)
