"""Metadata of any size, checksum or content never make an image undecodable."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.errors import TooManyPixels, UndecodableImage
from service.inference.decoding.decode import DecodedImage, decode
from tests.helpers.photographs import astronaut

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata


def picture() -> Image.Image:
    return Image.fromarray(astronaut()).resize((60, 40))


def encode(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **options)
    return buffer.getvalue()


def read(data: bytes) -> DecodedImage:
    return decode(data, shorter_side=40, max_pixels=100_000)


def same(odd: bytes, sound: bytes) -> None:
    assert odd != sound
    np.testing.assert_array_equal(read(odd).pixels, read(sound).pixels)


# PNG

IHDR_END = 8 + 25
PROFILE = b"icc\0\0" + zlib.compress(b"no profile at all")
ANCILLARY = {
    "iCCP": PROFILE,
    "pHYs": b"\0\0\0\1\0\0\0\1\1",
    "tEXt": b"Software\0made up",
    "zTXt": b"Comment\0\0not zlib",
    "iTXt": b"XML:com.adobe.xmp\0\0\0\0\0<x",
    "tIME": b"\0",
    "gAMA": b"",
    "cHRM": b"\xff" * 32,
    "sRGB": b"\x63",
    "bKGD": b"\0" * 60,
    "sBIT": b"\xff",
    "hIST": b"\0",
    "sPLT": b"x",
    "acTL": b"\0\0\0\0\0\0\0\0",
    "fcTL": b"\xff" * 26,
    "fdAT": b"\xff" * 40,
    "eXIf": b"no EXIF",
    "prVt": bytes(100_000),
}


def chunk(name: bytes, content: bytes, wrong: bool = False) -> bytes:
    crc = zlib.crc32(name + content) ^ wrong
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "RGBA"])
@pytest.mark.parametrize("wrong", [False, True], ids=["sound", "wrong checksum"])
@pytest.mark.parametrize("name", ANCILLARY)
def test_ancillary_chunks_of_a_png(name: str, wrong: bool, mode: str) -> None:
    sound = encode("PNG", picture().convert(mode))
    extra = chunk(name.encode(), ANCILLARY[name], wrong)
    same(sound[:IHDR_END] + extra + sound[IHDR_END:], sound)
    same(sound[:-12] + extra + sound[-12:], sound)
    same(sound[:-12] + extra[:-6], sound)


def test_orientation_with_a_wrong_checksum_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    sound = encode("PNG")
    turned = sound[:IHDR_END] + chunk(b"eXIf", block) + sound[IHDR_END:]
    assert (read(turned).width, read(turned).height) == (40, 60)
    same(sound[:IHDR_END] + chunk(b"eXIf", block, wrong=True) + sound[IHDR_END:], sound)


@pytest.mark.parametrize("name", ["IHDR", "PLTE"])
def test_critical_chunks_must_be_valid(name: str) -> None:
    data = bytearray(encode("PNG", picture().quantize(16), transparency=1))
    at = data.index(name.encode())
    data[at + 4 + int.from_bytes(data[at - 4 : at])] ^= 1
    with pytest.raises(UndecodableImage):
        read(bytes(data))


@pytest.mark.parametrize(
    ("mode", "chunks"),
    [
        ("P", [b"\0" * 17]),  # more than the palette has
        ("P", [b""]),
        ("RGB", [b"", b"\0", b"\0" * 5, b"\0" * 8]),
        ("L", [b"", b"\0", b"\0" * 4]),
        ("LA", [b"\0\0"]),
        ("RGBA", [b"\0" * 6]),
    ],
)
def test_contradictory_transparency_is_ignored(mode: str, chunks: list[bytes]) -> None:
    sound = encode("PNG", picture().quantize(16) if mode == "P" else picture().convert(mode))
    at = sound.index(b"IDAT") - 4
    for content in chunks:
        same(sound[:at] + chunk(b"tRNS", content) + sound[at:], sound)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_misplaced_or_corrupt_transparency_is_ignored(mode: str) -> None:
    image = picture().quantize(16) if mode == "P" else picture().convert(mode)
    sound = encode("PNG", image)
    content = {"RGB": b"\0" * 6, "L": b"\0\0", "P": b"\0"}[mode]
    at = sound.index(b"IDAT") - 4
    same(sound[:at] + chunk(b"tRNS", content, wrong=True) + sound[at:], sound)
    same(sound[:-12] + chunk(b"tRNS", content) + sound[-12:], sound)


def test_a_suggested_palette_may_have_a_wrong_checksum() -> None:
    sound = encode("PNG")
    same(sound[:IHDR_END] + chunk(b"PLTE", b"abc", wrong=True) + sound[IHDR_END:], sound)


@pytest.mark.parametrize("name", [b"CgBI", b"ABCD"])
def test_an_unknown_critical_chunk_is_refused_by_name(name: bytes) -> None:
    sound = encode("PNG")
    with pytest.raises(UndecodableImage, match=f"unknown critical chunk '{name.decode()}'"):
        read(sound[:IHDR_END] + chunk(name, b"\0\0\0\0") + sound[IHDR_END:])


def test_too_many_chunks_are_refused() -> None:
    sound = encode("PNG")
    with pytest.raises(UndecodableImage, match="more than 50000 chunks"):
        read(sound[:IHDR_END] + chunk(b"tEXt", b"") * 60_000 + sound[IHDR_END:])
    webp = encode("WEBP")
    with pytest.raises(UndecodableImage, match="more than 50000 chunks"):
        read(webp + b"ABCD\0\0\0\0" * 60_000)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_repeated_exif_signature_costs_nothing(kind: str) -> None:
    data = encode(kind)
    block = b"Exif\0\0" * 10_900
    if kind == "PNG":
        odd = data[:IHDR_END] + chunk(b"eXIf", block * 20) + data[IHDR_END:]
    else:
        odd = data[:2] + (b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block) * 20 + data[2:]
    same(odd, data)


def test_first_image_of_an_animated_png_is_read() -> None:
    sound = encode("PNG")
    animated = encode("PNG", save_all=True, append_images=[picture().rotate(90)])
    same(animated, sound)


def png_of(depth: int, colour: int, row: bytes, transparent: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", 4, 1, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"tRNS", transparent)
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_every_depth(depth: int) -> None:
    top = 2**depth - 1
    levels = [0, min(1, top), top // 2, top]
    bits = "".join(f"{level:0{depth}b}" for level in levels)
    row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    for transparent in sorted(set(levels)):
        pixels = read(png_of(depth, 0, row, struct.pack(">H", transparent))).pixels[0, :, 0]
        expected = [255 if level == transparent else level * 255 // top for level in levels]
        np.testing.assert_allclose(pixels, expected, atol=1)


def test_a_transparent_colour_of_16_bits_is_refused() -> None:
    row = struct.pack(">12H", *range(0, 12000, 1000))
    with pytest.raises(UndecodableImage, match="transparent 16-bit colour is unsupported"):
        read(png_of(16, 2, row, struct.pack(">3H", 0, 1000, 2000)))


@pytest.mark.parametrize("depth", [0, 3, 7, 32])
def test_transparent_grey_of_an_invalid_depth(depth: int) -> None:
    with pytest.raises(UndecodableImage):
        read(png_of(depth, 0, b"\0", b"\0\1"))


# WebP


def riff(name: bytes, content: bytes, size: int | None = None) -> bytes:
    length = len(content) if size is None else size
    return name + struct.pack("<I", length) + content + bytes(len(content) % 2)


def sized(data: bytes) -> bytes:
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


EXTENDED = 30
"""Offset of the chunk after VP8X."""


@pytest.fixture(params=[{}, {"lossless": True}], ids=["lossy", "lossless"])
def webp(request: pytest.FixtureRequest) -> bytes:
    """A WebP whose flags announce a profile, EXIF and XMP that are missing."""
    data = encode("WEBP", **request.param)
    size = (59).to_bytes(3, "little") + (39).to_bytes(3, "little")
    return sized(data[:12] + riff(b"VP8X", bytes([0x2C, 0, 0, 0]) + size) + data[12:])


@pytest.mark.parametrize("name", ["EXIF", "XMP ", "ICCP", "ABCD"])
def test_metadata_of_a_webp(webp: bytes, name: str) -> None:
    tag = name.encode()
    same(sized(webp + riff(tag, b"made up")), webp)
    same(sized(webp[:EXTENDED] + riff(tag, b"made up") + webp[EXTENDED:]), webp)
    same(sized(webp + riff(tag, b"made up", size=1000)), webp)
    same(webp + riff(tag, b"made up", size=2**32 - 1), webp)


@pytest.mark.parametrize("size", [0, 4, 100, 2**32 - 1])
def test_wrong_file_size_in_a_webp(webp: bytes, size: int) -> None:
    same(webp[:4] + struct.pack("<I", size) + webp[8:], webp)


def test_the_orientation_of_a_webp_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode("WEBP", exif=exif, icc_profile=b"no profile", xmp=b"<x/>")
    assert (read(data).width, read(data).height) == (40, 60)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0made up"}])
def test_webp_pixel_limit_applies_before_opening(options: dict[str, object]) -> None:
    data = bytearray(encode("WEBP", **options))
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        data[24:30] = (16382).to_bytes(3, "little") * 2
    elif kind == b"VP8 ":
        data[26:30] = struct.pack("<HH", 16383, 16383)
    else:
        data[21:25] = struct.pack("<I", 16382 | 16382 << 14)
    with pytest.raises(TooManyPixels, match=r"pixels \(limit: 100000\)"):
        read(bytes(data))
    hidden = data[:12] + riff(b"ABCD", b"first") + data[12:]
    with pytest.raises(TooManyPixels, match=r"pixels \(limit: 100000\)"):
        read(bytes(hidden))


# GIF, BMP, TIFF, AVIF: the decoders ignore metadata


def gif_extensions() -> dict[str, bytes]:
    return {
        "a comment": b"\x21\xfe" + b"\x05hello" * 1000 + b"\0",
        "an unknown extension": b"\x21\x77\x03abc\0",
        "an animation's loop": b"\x21\xff\x0bNETSCAPE2.0\x01\x01\0",
        "an XMP block": b"\x21\xff\x0bXMP DataXMP" + bytes([200]) + b"<" * 200 + b"\0",
    }


@pytest.mark.parametrize("name", gif_extensions())
def test_extensions_of_a_gif(name: str) -> None:
    sound = encode("GIF", comment=b"x")
    at = sound.index(b"\x21\xfe")
    same(sound[:at] + gif_extensions()[name] + sound[at:], sound)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF", "PNG", "WEBP"])
def test_bytes_after_the_image(kind: str) -> None:
    same(encode(kind) + b"more of them " * 9, encode(kind))


BMP_MASKS = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def bmp(alpha: NDArray[np.uint8], *, header: int = 108, compression: int = 3) -> bytes:
    """Build a 32-bit BMP; with `compression` 3 its header has colour masks."""
    rgb = np.asarray(picture())
    height, width = rgb.shape[:2]
    pixels = np.dstack([rgb[..., ::-1], alpha])[::-1].tobytes()
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, 32, compression, len(pixels), 0, 0, 0, 0)
    info += (BMP_MASKS + b"BGRs").ljust(header - 40, b"\0") if header > 40 else b""
    if header == 40 and compression == 3:
        info += BMP_MASKS
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + pixels


@pytest.mark.parametrize(("header", "compression"), [(108, 3), (124, 3), (56, 3), (40, 0), (124, 0)])
def test_bmp_with_zero_alpha_is_opaque(header: int, compression: int) -> None:
    shape = (40, 60)
    data = bmp(np.zeros(shape, np.uint8), header=header, compression=compression)
    np.testing.assert_array_equal(read(data).pixels, np.asarray(picture()))


def test_bmp_alpha_is_composited_over_white() -> None:
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:20] = 255
    pixels = read(bmp(alpha)).pixels
    np.testing.assert_array_equal(pixels[:20], np.asarray(picture())[:20])
    assert (pixels[20:] == 255).all()
