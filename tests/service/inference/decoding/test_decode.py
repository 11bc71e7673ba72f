"""Image decoding: every format, mode and orientation, and the errors for everything else."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from service.errors import EmptyBody, TooManyPixels, UndecodableImage, UnknownImageType
from service.inference.decoding.decode import DecodedImage, decode
from service.inference.decoding.signatures import image_format
from tests.helpers import jpegs
from tests.helpers.photographs import astronaut

ORIENTATION = 0x0112
LIMIT = 1_000_000


def read(data: bytes, shorter_side: int = 256, max_pixels: int = LIMIT) -> DecodedImage:
    return decode(data, shorter_side=shorter_side, max_pixels=max_pixels)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 120, height: int = 80) -> Image.Image:
    """Crop of a photograph without any symmetry."""
    return Image.fromarray(astronaut()).resize((width, height))


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "A maker of cameras"
    exif[ORIENTATION] = orientation
    return exif


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


# Formats


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", {"big_tiff": True}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 4),
        ("GIF", {}, 12),
        ("AVIF", {"quality": 95}, 3),
        ("JPEG", {"quality": 95}, 4),
        ("JPEG", {"quality": 95, "progressive": True}, 4),
        ("JPEG", {"quality": 95, "subsampling": "4:4:4"}, 3),
    ],
)
def test_reads_every_format(kind: str, options: dict[str, object], tolerance: float) -> None:
    assert features.check("avif")
    source = photo()
    data = encode(source, kind, **options)
    image = read(data)
    assert (image.width, image.height, image.format) == (120, 80, kind.lower())
    assert (image.bytes, image.scale) == (len(data), 1)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    assert difference(image.pixels, np.asarray(source)) <= tolerance


def test_only_the_first_frame_counts() -> None:
    red, blue = Image.new("RGB", (20, 10), (255, 0, 0)), Image.new("RGB", (20, 10), (0, 0, 255))
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        data = encode(red, kind, save_all=True, append_images=[blue, blue])
        pixels = read(data).pixels
        assert pixels.shape == (10, 20, 3), kind
        assert difference(pixels, np.asarray(red)) < 3, kind


# Colour modes


def test_alpha_is_composited_over_white() -> None:
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    rgba[:, :2] = (255, 0, 0, 255)
    rgba[:, 2] = (0, 0, 0, 0)
    rgba[:, 3] = (0, 0, 200, 51)
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        pixels = read(encode(Image.fromarray(rgba), kind, **options)).pixels
        assert pixels[0, 0].tolist() == [255, 0, 0], kind
        assert pixels[0, 2].tolist() == [255, 255, 255], kind
        np.testing.assert_allclose(pixels[0, 3], [204, 204, 244], atol=1)


def test_grey_with_alpha() -> None:
    values = np.array([[[10, 255], [10, 0], [0, 51]]], dtype=np.uint8)
    pixels = read(encode(Image.fromarray(values, "LA"), "PNG")).pixels
    assert pixels[0, :, 0].tolist() == [10, 255, 204]
    assert (pixels == pixels[:, :, :1]).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_entry(kind: str) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    assert read(encode(image, kind)).pixels[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    transparent = read(encode(image, kind, transparency=1)).pixels[0].tolist()
    assert transparent == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


def test_a_palette_with_an_alpha_for_each_entry() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    pixels = read(encode(image, "PNG", transparency=bytes([255, 0, 51]))).pixels
    assert pixels[0].tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 255]]


def test_a_transparent_colour() -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    assert read(encode(rgb, "PNG", transparency=(1, 2, 3))).pixels[0].tolist() == [[255] * 3, [4, 5, 6]]
    grey = Image.fromarray(np.array([[7, 8]], dtype=np.uint8))
    assert read(encode(grey, "PNG", transparency=7)).pixels[0].tolist() == [[255] * 3, [8] * 3]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG", "WEBP"])
def test_greyscale(kind: str) -> None:
    source = photo().convert("L")
    pixels = read(encode(source, kind)).pixels
    assert difference(pixels, np.asarray(source.convert("RGB"))) < 5


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit(kind: str) -> None:
    source = photo().convert("1")
    assert difference(read(encode(source, kind)).pixels, np.asarray(source.convert("RGB"))) == 0


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    source = photo()
    image = read(encode(source.convert("CMYK"), kind))
    assert difference(image.pixels, np.asarray(source)) < 5


def test_cmyk_jpeg_is_decoded_at_scale() -> None:
    image = read(encode(photo(800, 600).convert("CMYK"), "JPEG", quality=95), shorter_side=100)
    assert (image.scale, image.width, image.height, image.pixels.shape) == (4, 800, 600, (150, 200, 3))
    assert difference(image.pixels, np.asarray(photo(800, 600).reduce(4))) < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    pixels = read(encode(Image.fromarray(values), kind)).pixels
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (pixels == pixels[:, :, :1]).all()


def test_sixteen_bits_big_endian() -> None:
    data = encode(Image.fromarray(np.array([[0, 65535]], dtype=">u2")), "TIFF")
    assert read(data).pixels[0, :, 0].tolist() == [0, 255]


def test_sixteen_bit_grey_with_a_transparent_level() -> None:
    data = png(2, 1, depth=16, colour=0, rows=[b"\x12\x34\x56\x78"], before=[(b"tRNS", b"\x12\x34")])
    assert read(data).pixels[0, :, 0].tolist() == [255, 0x56]


def test_sixteen_bit_colour() -> None:
    row = struct.pack(">6H", 65535, 0, 32768, 0, 65535, 256)
    pixels = read(png(2, 1, depth=16, colour=2, rows=[row])).pixels
    assert pixels[0].tolist() == [[255, 0, 128], [0, 255, 1]]
    row = struct.pack(">4H", 65535, 65535, 0, 0)
    alpha = read(png(1, 1, depth=16, colour=6, rows=[row])).pixels
    assert alpha.tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([[0, 0.5, 1]]), [0, 128, 255]),
        (np.float32([[0, 100, 255]]), [0, 100, 255]),
        (np.float32([[0, 32768, 65535]]), [0, 128, 255]),
        (np.float32([[-1, 0, 1]]), [0, 128, 255]),
        (np.float32([[0, np.nan, 1]]), [0, 0, 255]),
        (np.float32([[-np.inf, 0, np.inf]]), [0, 128, 255]),
        (np.int32([[0, 100, 255]]), [0, 100, 255]),
        (np.int32([[0, 32768, 65535]]), [0, 128, 255]),
        (np.int32([[-(2**31), 0, 2**31 - 1]]), [0, 128, 255]),
    ],
)
def test_floating_point_and_32_bit_tiff(values: NDArray[np.generic], expected: list[int]) -> None:
    assert read(encode(Image.fromarray(values), "TIFF")).pixels[0, :, 0].tolist() == expected


def test_a_colour_profile_is_left_alone() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("PNG", "JPEG"):
        with_profile, without = encode(photo(), kind, icc_profile=profile), encode(photo(), kind)
        assert len(with_profile) > len(without)
        np.testing.assert_array_equal(read(with_profile).pixels, read(without).pixels)


# Orientation

TRANSPOSITIONS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize(("orientation", "transposition"), TRANSPOSITIONS.items())
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_honoured(kind: str, orientation: int, transposition: Image.Transpose | None) -> None:
    source = photo()
    upright = source if transposition is None else source.transpose(transposition)
    image = read(encode(source, kind, exif=oriented(orientation), quality=95))
    assert (image.width, image.height) == upright.size
    assert difference(image.pixels, np.asarray(upright)) < 4


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize(("orientation", "transposition"), TRANSPOSITIONS.items())
def test_orientation_is_honoured_with_scaling(
    orientation: int, transposition: Image.Transpose | None, mode: str
) -> None:
    source = photo(640, 480)
    small = source.reduce(2)
    upright = small if transposition is None else small.transpose(transposition)
    data = encode(source.convert(mode), "JPEG", quality=95, exif=oriented(orientation))
    image = read(data, shorter_side=200)
    assert image.scale == 2
    assert (image.width, image.height) == (upright.width * 2, upright.height * 2)
    assert difference(image.pixels, np.asarray(upright)) < 4


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_in_both_byte_orders(order: str) -> None:
    tiff = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(
        order + "IHHHIHHI", 8, 1, ORIENTATION, 3, 1, 6, 0, 0
    )
    data = encode(photo(), "JPEG", exif=b"Exif\0\0" + tiff)
    assert read(data).pixels.shape == (120, 80, 3)


INTEGER_TYPES = {"BYTE": (1, "B"), "SHORT": (3, "H"), "LONG": (4, "I"), "SBYTE": (6, "b"), "SSHORT": (8, "h")}
INTEGER_TYPES |= {"SLONG": (9, "i"), "IFD": (13, "I")}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("type_name", INTEGER_TYPES)
def test_orientation_of_any_integer_type(type_name: str, order: str, kind: str) -> None:
    code, packing = INTEGER_TYPES[type_name]
    value = struct.pack(order + packing, 6).ljust(4, b"\0")
    start = {"<": b"II*\0", ">": b"MM\0*"}[order]
    tiff = start + struct.pack(order + "IHHHI", 8, 1, ORIENTATION, code, 1) + value + bytes(4)
    assert read(encode(photo(), kind, exif=b"Exif\0\0" + tiff)).pixels.shape == (120, 80, 3)


@pytest.mark.parametrize(("type_name", "code"), [("BYTE", 1), ("SHORT", 3), ("LONG", 4)])
def test_orientation_of_a_tiff_of_any_integer_type(type_name: str, code: int) -> None:
    data = bytearray(encode(photo(), "TIFF", exif=oriented(6)))
    tag = data.index(struct.pack("<HHI", ORIENTATION, 3, 1))
    data[tag + 2] = code
    assert read(bytes(data)).pixels.shape == (120, 80, 3), type_name


def test_orientation_of_several_values_at_an_offset() -> None:
    tiff = b"II*\0" + struct.pack("<IHHHIIIHHH", 8, 1, ORIENTATION, 3, 3, 26, 0, 6, 1, 1)
    assert read(encode(photo(), "JPEG", exif=b"Exif\0\0" + tiff)).pixels.shape == (120, 80, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_read_from_exif_alone(kind: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    options: dict[str, object] = {"tiffinfo": {700: xmp}} if kind == "TIFF" else {"xmp": xmp}
    if kind == "PNG":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options = {"pnginfo": text}
    data = encode(photo(), kind, **options)
    assert xmp in data
    assert read(data).pixels.shape == (80, 120, 3)


@pytest.mark.parametrize(
    "tiff",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x00" * 30,
        b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, ORIENTATION, 3, 1, 9, 0, 0),
        b"II*\0" + struct.pack("<IHHHIIII", 8, 1, ORIENTATION, 5, 1, 26, 0, 6),
        b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, ORIENTATION, 3, 0, 6, 0, 0),
        b"II*\0" + struct.pack("<IHHHIII", 8, 1, ORIENTATION, 4, 9, 2**31, 0),
        b"neither byte order",
    ],
)
def test_broken_exif_is_ignored(tiff: bytes) -> None:
    data = encode(photo(), "JPEG", exif=b"Exif\0\0" + tiff)
    assert read(data).pixels.shape == (80, 120, 3)


# The scale of a JPEG


@pytest.mark.parametrize(
    ("width", "height", "shorter_side", "scale"),
    [
        (512, 512, 256, 2),
        (511, 700, 256, 1),
        (513, 700, 256, 2),
        (1023, 1400, 256, 2),
        (1535, 2000, 256, 2),
        (1536, 1536, 256, 4),
        (3071, 3100, 256, 4),
        (3073, 3072, 256, 8),
        (3073, 3072, 257, 4),
        (100, 3000, 256, 1),
        (1000, 50, 64, 1),
        (17, 16, 8, 2),
        (1, 1, 1, 1),
    ],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_the_smallest_scale_that_keeps_enough(
    width: int, height: int, shorter_side: int, scale: int, progressive: bool
) -> None:
    data = encode(Image.new("RGB", (width, height), "teal"), "JPEG", progressive=progressive)
    image = read(data, shorter_side=shorter_side, max_pixels=10_000_000)
    assert (image.width, image.height, image.scale) == (width, height, scale)
    assert image.pixels.shape == (-(-height // scale), -(-width // scale), 3)
    assert image.box == (0, 0, width / scale, height / scale)


@pytest.mark.parametrize(
    ("orientation", "box"),
    [
        (1, (0, 0, 80.125, 60.375)),
        (2, (0.875, 0, 81, 60.375)),
        (3, (0.875, 0.625, 81, 61)),
        (4, (0, 0.625, 80.125, 61)),
        (5, (0, 0, 60.375, 80.125)),
        (6, (0.625, 0, 61, 80.125)),
        (7, (0.625, 0.875, 61, 81)),
        (8, (0, 0.875, 60.375, 81)),
    ],
)
def test_box_of_a_scaled_jpeg_ends_within_a_pixel(
    orientation: int, box: tuple[float, float, float, float]
) -> None:
    data = encode(photo(641, 483), "JPEG", exif=oriented(orientation))
    image = read(data, shorter_side=40)
    assert image.scale == 8
    assert image.box == box


def test_scaled_decoding_equals_the_resized_image() -> None:
    source = photo(1600, 1200)
    data = encode(source, "JPEG", quality=95)
    for shorter_side, scale in ((1200, 1), (600, 2), (200, 4), (100, 8)):
        image = read(data, shorter_side=shorter_side, max_pixels=10_000_000)
        assert image.scale == scale
        assert difference(image.pixels, np.asarray(source.reduce(scale))) < 3


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_extreme_shapes(kind: str, width: int, height: int) -> None:
    image = read(encode(Image.new("RGB", (width, height), (200, 100, 50)), kind, quality=95))
    assert image.pixels.shape == (height, width, 3)
    np.testing.assert_allclose(image.pixels[0, 0], (200, 100, 50), atol=6)


# JPEGs with harmless deviations


def test_padding_before_a_marker_is_accepted() -> None:
    data = encode(photo(), "JPEG")
    np.testing.assert_array_equal(read(data[:-2] + b"\x12\x34\x56" + data[-2:]).pixels, read(data).pixels)


def test_bytes_after_the_image_are_ignored() -> None:
    data = encode(photo(), "JPEG")
    np.testing.assert_array_equal(read(data + b"more, as phones append").pixels, read(data).pixels)


def test_first_image_of_several_is_read() -> None:
    data = encode(photo(), "MPO", save_all=True, append_images=[photo(60, 40)])
    assert read(data).pixels.shape == (80, 120, 3)


def test_stray_bytes_between_segments_are_skipped() -> None:
    data = encode(photo(), "JPEG")
    assert data[2:4] == b"\xff\xe0"
    odd = data[:20] + b"\xff\xff\xff" + data[20:]
    np.testing.assert_array_equal(read(odd).pixels, read(data).pixels)


def test_colour_stored_as_rgb() -> None:
    data = encode(photo(), "JPEG", quality=95, keep_rgb=True)
    assert difference(read(data).pixels, np.asarray(photo())) < 3


def test_subsampling_that_turbojpeg_cannot_name() -> None:
    data = bytearray(encode(Image.new("RGB", (64, 64), (90, 90, 90)), "JPEG", subsampling="4:4:4"))
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == 0x11
    data[frame + 11] = 0x31  # three luma samples for one of each colour; the scan still holds enough blocks
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(bytes(data))
    assert read(bytes(data)).pixels.shape == (64, 64, 3)


# Refused files


def png(
    width: int,
    height: int,
    *,
    depth: int = 8,
    colour: int = 2,
    rows: list[bytes] | None = None,
    before: list[tuple[bytes, bytes]] | None = None,
) -> bytes:
    """Build a PNG with any header, `rows` of samples and extra chunks before them."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows or []))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *(chunk(*extra) for extra in before or []),
            chunk(b"IDAT", data),
            chunk(b"IEND", b""),
        ]
    )


def test_no_bytes() -> None:
    with pytest.raises(EmptyBody, match="empty body"):
        read(b"")


@pytest.mark.parametrize(
    "data",
    [
        b"hello, I am a text named cat.jpg",
        b"<!DOCTYPE html><html></html>",
        b"%PDF-1.7\n",
        b"BMW makes cars, and this is a text.",
        b"\0",
        b"\xff\xd8",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"P6 1 1 255 \0\0\0",
        b"\xff\xff\xff\xff",
    ],
)
def test_unknown_type(data: bytes) -> None:
    with pytest.raises(UnknownImageType, match=f"{len(data)} bytes starting with") as caught:
        read(data)
    assert "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF" in caught.value.detail


def test_avif_is_detected_by_any_of_its_brands() -> None:
    assert image_format(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif") == "avif"
    assert image_format(b"\0\0\0\x14ftypmif1\0\0\0\0mif1avif") == "heif"


FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated(kind: str, part: float) -> None:
    data = encode(photo(), kind)
    cut = data[: int(len(data) * part)]
    with pytest.raises(UndecodableImage) as caught:
        read(cut)
    assert str(len(cut)) in caught.value.detail


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"cmyk": True}])
def test_every_way_of_truncating_a_jpeg(options: dict[str, bool]) -> None:
    source = photo(48, 32).convert("CMYK") if options.get("cmyk") else photo(48, 32)
    data = encode(source, "JPEG", progressive=options.get("progressive", False))
    for length in range(3, len(data) - 2):
        with pytest.raises(UndecodableImage):
            read(data[:length])


def test_jpeg_corrupted_in_its_middle() -> None:
    data = bytearray(encode(photo(640, 480), "JPEG"))
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(range(200)) * 2
    with pytest.raises(UndecodableImage, match="JPEG: truncated, corrupt or of a rare kind"):
        read(bytes(data))


@pytest.mark.parametrize("shorter_side", [16, 224, 5000])
def test_png_bomb(shorter_side: int) -> None:
    with pytest.raises(TooManyPixels) as caught:
        read(png(50_000, 50_000, rows=[b"\0" * 1000]), shorter_side=shorter_side, max_pixels=64_000_000)
    assert caught.value.detail == "PNG: 50000 x 50000 = 2500000000 pixels (limit: 64000000)"


def jpeg_of_size(width: int, height: int, **options: object) -> bytes:
    data = bytearray(encode(photo(16, 16), "JPEG", **options))
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def oversized(kind: str) -> bytes:
    """Build a file whose header declares far more pixels than it contains."""
    if kind == "JPEG":
        return jpeg_of_size(65500, 65500)
    if kind == "progressive JPEG":
        return jpeg_of_size(65500, 65500, progressive=True)
    if kind == "GIF":
        data = bytearray(encode(photo(16, 16), "GIF"))
        data[6:10] = struct.pack("<HH", 65535, 65535)
        return bytes(data)
    if kind == "GIF frame":
        data = bytearray(encode(photo(16, 16), "GIF"))
        frame = data.index(b"\x2c\0\0\0\0\x10\0\x10\0")
        data[frame + 5 : frame + 9] = struct.pack("<HH", 65535, 65535)
        return bytes(data)
    if kind == "WebP":
        data = bytearray(encode(photo(16, 16), "WEBP", exif=oriented(1)))
        assert data[12:16] == b"VP8X"
        data[24:30] = (16382).to_bytes(3, "little") * 2
        return bytes(data)
    if kind == "BMP":
        data = bytearray(encode(photo(16, 16), "BMP"))
        data[18:26] = struct.pack("<ii", 60000, 60000)
        return bytes(data)
    if kind == "TIFF":
        return tiff(60000, 60000)
    raise AssertionError(kind)


def tiff(width: int, height: int, extra: dict[int, int] | None = None) -> bytes:
    """Build a grey 8-bit TIFF of any declared size with one strip of ten bytes."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 10}
    tags |= extra or {}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 18) + b"\0" * 10 + struct.pack("<H", len(tags)) + entries + b"\0" * 4


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "GIF", "GIF frame", "WebP", "BMP", "TIFF"])
def test_too_many_pixels(kind: str) -> None:
    with pytest.raises(TooManyPixels, match=r"pixels \(limit: 64000000\)"):
        read(oversized(kind), max_pixels=64_000_000)


@pytest.mark.parametrize("kind", FORMATS)
def test_pixel_limit_is_inclusive(kind: str) -> None:
    data = encode(photo(), kind)
    assert read(data, max_pixels=120 * 80).pixels.shape == (80, 120, 3)
    with pytest.raises(TooManyPixels, match=rf": 120 x 80 = 9600 pixels \(limit: {120 * 80 - 1}\)"):
        read(data, max_pixels=120 * 80 - 1)


def test_small_tiff_with_one_huge_tile() -> None:
    with pytest.raises(TooManyPixels):
        read(tiff(10, 10, {322: 60000, 323: 60000, 324: 8, 325: 10}), max_pixels=64_000_000)


@pytest.mark.parametrize("side", [322, 323])
def test_tiff_with_only_one_tile_side(side: int) -> None:
    with pytest.raises(TooManyPixels):
        read(tiff(1000, 1000, {side: 60000, 324: 8, 325: 10}), max_pixels=50_000_000)


@pytest.mark.parametrize(
    "extra", [{278: 0}, {278: 2**32 - 1}, {273: 2**31}, {277: 60000}, {258: 77}, {259: 9999}]
)
def test_contradictory_tiff_tags(extra: dict[int, int]) -> None:
    with pytest.raises(UndecodableImage):
        read(tiff(1000, 100, extra))


@pytest.mark.slow
def test_png_text_bomb_is_ignored() -> None:
    bomb = b"Comment\0\0" + zlib.compress(b"\0" * 100_000_000, 1)
    data = png(1, 1, rows=[b"\1\2\3"], before=[(b"zTXt", bomb)])
    assert read(data).pixels.tolist() == [[[1, 2, 3]]]


def test_no_pixels() -> None:
    for data in (jpeg_of_size(0, 10), jpeg_of_size(10, 0), png(0, 5), tiff(0, 7)):
        with pytest.raises(UndecodableImage):
            read(data)


def test_twelve_bits_per_sample() -> None:
    data = bytearray(encode(photo(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UndecodableImage, match=r"JPEG: 12 bits per sample \(allowed: 8\)"):
        read(bytes(data))


@pytest.mark.parametrize("marker", jpegs.FRAMES, ids=lambda marker: f"SOF{marker - 0xC0}")
@pytest.mark.parametrize("shorter_side", [1, 64, 128, 256, 512])
def test_only_frames_that_scale_are_decoded(marker: int, shorter_side: int) -> None:
    data = jpegs.lossless(512, 512, marker=marker)
    if marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        kind = "lossless" if marker in (0xC3, 0xCB) else "hierarchical"
        with pytest.raises(
            UndecodableImage, match=rf"JPEG: {kind} frames are unsupported \(given: SOF{marker - 0xC0};"
        ):
            read(data, shorter_side)
    else:  # the marker says what the rest is not: libjpeg-turbo refuses it, or fills what is missing
        with contextlib.suppress(UndecodableImage):
            read(data, shorter_side)


@pytest.mark.parametrize("components", [1, 3, 4])
@pytest.mark.parametrize("before", [b"", b"\xff\xff\xff", b"\0\0", b"\xff\xd0", b"\xff\x01\xff\0\xff\xff"])
def test_lossless_frame_after_stray_bytes_is_detected(components: int, before: bytes) -> None:
    data = jpegs.lossless(1024, 1024, components=components)
    comment = jpegs.segment(0xFE, b"a baseline frame? " + jpegs.segment(0xC0, bytes(15)))
    with pytest.raises(UndecodableImage, match="lossless"):
        read(data[:2] + comment + before + data[2:], shorter_side=64, max_pixels=2**20)


def test_an_extended_frame_is_decoded_like_a_baseline_one() -> None:
    data = bytearray(encode(photo(640, 480), "JPEG"))
    baseline = read(bytes(data), shorter_side=100).pixels
    data[jpegs.offset_of(data, 0xC0) + 1] = 0xC1
    np.testing.assert_array_equal(read(bytes(data), shorter_side=100).pixels, baseline)


def test_too_many_jpeg_segments() -> None:
    data = encode(photo(), "JPEG")
    with pytest.raises(UndecodableImage, match="more than 4096 segments"):
        read(data[:2] + b"\xff\xe5\0\2" * 100_000 + data[2:])


def test_too_many_progressive_scans() -> None:
    data = encode(photo(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(UndecodableImage, match="JPEG: more than 100 scans"):
        read(data[:last] + data[last:-2] * 200 + data[-2:])


def test_errors_do_not_name_internals() -> None:
    cases: list[tuple[bytes, type[Exception]]] = [
        (encode(photo(), kind)[:400], UndecodableImage) for kind in FORMATS
    ]
    for data, error in cases:
        with pytest.raises(error) as caught:
            read(data)
        for word in ("Pillow", "PIL", "libjpeg", "simplejpeg", "object at", "/", "Error", "Premature"):
            assert word not in str(caught.value)
        assert caught.value.__suppress_context__


# Threads


def test_threads_do_not_disturb_each_other() -> None:
    makers: list[Callable[[], bytes]] = [lambda kind=kind: encode(photo(), kind) for kind in FORMATS]
    files = [make() for make in makers] + [encode(photo(), "JPEG")[:700], b"no image"]

    def outcome(data: bytes) -> bytes | str:
        try:
            return read(data).pixels.tobytes()
        except (UndecodableImage, UnknownImageType) as error:
            return error.detail

    expected = [outcome(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(outcome, files * 40))
    assert results == expected * 40


def test_pillows_global_limits_are_left_alone() -> None:
    from PIL import ImageFile

    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    read(encode(photo(), "PNG"))
    with pytest.raises(TooManyPixels):
        read(png(50_000, 50_000))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
