"""Decoding of mutated files returns an image or raises one of our errors, never anything else."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import EmptyBody, TooManyPixels, UndecodableImage, UnknownImageType
from service.inference.decoding.decode import decode
from tests.helpers.photographs import astronaut

# Pillow warns about odd metadata; warnings do not count as an outcome.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.fuzz]

LIMIT = 200_000


def _files() -> dict[str, bytes]:
    photo = Image.fromarray(astronaut()).resize((40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = photo.quantize(16)
    grey16 = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [photo.rotate(90)]}
    sources: list[tuple[str, Image.Image, str, dict[str, object]]] = [
        ("jpeg", photo, "JPEG", {"exif": exif}),
        ("jpeg progressive", photo, "JPEG", {"progressive": True}),
        ("jpeg cmyk", photo.convert("CMYK"), "JPEG", {}),
        ("png", photo.convert("RGBA"), "PNG", {"exif": exif}),
        ("png palette", palette, "PNG", {"transparency": 3}),
        ("png 16", grey16, "PNG", {}),
        ("apng", photo, "PNG", frames),
        ("webp", photo, "WEBP", {"exif": exif}),
        ("webp lossless", photo.convert("RGBA"), "WEBP", {"lossless": True}),
        ("webp animated", photo, "WEBP", frames),
        ("gif", palette, "GIF", frames | {"disposal": 2}),
        ("bmp", photo, "BMP", {}),
        ("bmp palette", palette, "BMP", {}),
        ("tiff", photo, "TIFF", {"exif": exif}),
        ("tiff lzw", photo, "TIFF", {"compression": "tiff_lzw"}),
        ("tiff jpeg", photo, "TIFF", {"compression": "jpeg"}),
        ("tiff deflate pages", photo, "TIFF", {"compression": "tiff_adobe_deflate", **frames}),
        ("tiff float", Image.fromarray(np.float32(np.asarray(photo.convert("L")))), "TIFF", {}),
        ("tiff fax", photo.convert("1"), "TIFF", {"compression": "group4"}),
        ("avif", photo, "AVIF", {"exif": exif}),
    ]
    files = {}
    for name, image, kind, options in sources:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[name] = buffer.getvalue()
    return files


FILES = _files()


def outcome(data: bytes) -> None:
    """Decode; fail the test unless the outcome is a valid image or an expected error."""
    with contextlib.suppress(EmptyBody, UndecodableImage, TooManyPixels, UnknownImageType):
        image = decode(data, shorter_side=8, max_pixels=LIMIT)
        assert image.width * image.height <= LIMIT
        assert image.pixels.dtype == np.uint8
        assert image.pixels.shape[2:] == (3,)
        if image.scale == 1:
            assert image.pixels.shape[:2] == (image.height, image.width)


def test_seed_files_are_valid() -> None:
    for name, data in FILES.items():
        image = decode(data, shorter_side=8, max_pixels=LIMIT)
        assert sorted((image.width, image.height)) == [30, 40], name


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_changed_bytes(name: str, data: st.DataObject) -> None:
    content = bytearray(FILES[name])
    # Headers matter most, so half of the changes fall into the first 200 bytes.
    head = st.integers(0, min(200, len(content)) - 1)
    place = st.one_of(head, st.integers(0, len(content) - 1))
    value = st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFE, 0xFF]), st.integers(0, 255))
    for at, byte in data.draw(st.lists(st.tuples(place, value), min_size=1, max_size=12)):
        content[at] = byte
    outcome(bytes(content))


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_cut_doubled_and_inserted_pieces(name: str, data: st.DataObject) -> None:
    content = FILES[name]
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    at = data.draw(st.integers(0, len(content)))
    piece = data.draw(st.one_of(st.just(b""), st.just(content[start:end]), st.binary(max_size=64)))
    outcome(content[:at] + piece + content[at:])
    outcome(content[:start] + content[end:])


@settings(max_examples=200, deadline=None)
@given(start=st.sampled_from([data[:n] for data in FILES.values() for n in (4, 16, 40)]), rest=st.binary())
def test_signature_followed_by_any_bytes(start: bytes, rest: bytes) -> None:
    outcome(start + rest)


@settings(deadline=None)
@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    outcome(data)
