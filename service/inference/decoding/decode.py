"""Decode image files to RGB pixels.

The format is detected from the file signature. A JPEG may be decoded at a smaller scale.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH
from PIL.WebPImagePlugin import WebPImageFile

from models.zoo.preprocess import Box
from service.errors import EmptyBody, TooManyPixels, UndecodableImage, UnknownImageType
from service.inference.decoding.jpeg import JpegHeader, decode_strictly, read_jpeg_header
from service.inference.decoding.jpeg_repair import DamagedJpeg, repaired_pixels
from service.inference.decoding.metadata import png_without_metadata, webp_without_metadata
from service.inference.decoding.rgb import to_rgb
from service.inference.decoding.signatures import Format, identify_unsupported, image_format
from service.inference.decoding.tiff import CheckedTiff

SUFFIXES_OF: dict[Format, tuple[str, ...]] = {
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png", ".apng"),
    "webp": (".webp",),
    "gif": (".gif",),
    "bmp": (".bmp", ".dib"),
    "tiff": (".tif", ".tiff"),
    "avif": (".avif", ".avifs"),
}
"""File name suffixes in lower case, by format. They serve to list folders; `decode` ignores file names."""

if importlib.util.find_spec("pillow_heif") is not None:
    SUFFIXES_OF["heif"] = (".heic", ".heif", ".hif")

SUFFIXES = frozenset(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
"""All suffixes of SUFFIXES_OF."""

# The plugins are called directly: `Image.open` would try each format and apply its own pixel limit.
_PILLOW: dict[Format, type[ImageFile]] = {
    "png": PngImageFile,
    "webp": WebPImageFile,
    "gif": GifImageFile,
    "bmp": BmpImageFile,
    "tiff": CheckedTiff,
    "avif": AvifImageFile,
}
_SUPPORTED = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF"
# Broken metadata must not make an image undecodable.
_WITHOUT_METADATA: dict[Format, Callable[[bytes], bytes]] = {
    "png": png_without_metadata,
    "webp": webp_without_metadata,
}
# (scale, margin): 1/scale is used if the image decoded at it is at least `margin` times larger than needed.
# libjpeg-turbo has vector code for these scales only; 3/4 and 3/8 are slower than decoding in full. Scaling
# in the frequency domain filters differently from resizing, and can change the top-1 class if two classes
# have nearly equal logits. The larger the margin, the more of the reduction is left to resizing, and the less
# often the class changes (measured in test_scaled_decoding.py). The margin at 1/2 is only 1, because this
# saves much time: for a network that needs 256 pixels, decoding an image of 512 in full takes three times as
# long.
_SCALES = ((8, 1.5), (4, 1.5), (2, 1.0))


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded image with EXIF orientation applied and alpha composited over white.

    `pixels` is uint8 RGB (H, W, 3), C-contiguous. `box` is the part of `pixels` that the image covers:
    scaling rounds up, so the image may cover the last row and column of a scaled JPEG only in part. `width`
    and `height` are those of the image before scaling. `bytes` is the file size. `scale` is 1, 2, 4 or 8: a
    JPEG was decoded at 1/`scale` of its size. For all other formats, `scale` is 1.
    """

    pixels: NDArray[np.uint8]
    box: Box
    width: int
    height: int
    format: Format
    bytes: int
    scale: int


def decode(data: bytes, *, shorter_side: int, max_pixels: int) -> DecodedImage:
    """Decode the first frame of a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or, with the extra `heif`, HEIF.

    A JPEG is decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 that leaves its shorter side large
    enough: at least `shorter_side` pixels at 1/2, at least 1.5 times `shorter_side` at 1/4 and 1/8. The
    interpreter lock is released during decoding.

    Raises EmptyBody, UnknownImageType and UndecodableImage (truncated, corrupt or unsupported). Raises
    TooManyPixels before decoding if the header declares more than `max_pixels`.
    """
    if not data:
        raise EmptyBody
    kind = image_format(data)
    if kind is None or (kind == "heif" and _heif_plugin() is None):
        raise UnknownImageType(_unknown(data))
    if kind == "jpeg":
        return _decode_jpeg(data, shorter_side, max_pixels)
    pixels = _decode_with_pillow(data, kind, max_pixels)
    height, width = pixels.shape[:2]
    return DecodedImage(pixels, (0, 0, width, height), width, height, kind, len(data), 1)


def _decode_jpeg(data: bytes, shorter_side: int, max_pixels: int) -> DecodedImage:
    header = read_jpeg_header(data)
    _check_pixels("jpeg", header.width, header.height, max_pixels)
    shorter = min(header.width, header.height)
    scale = next((scale for scale, margin in _SCALES if shorter >= scale * margin * shorter_side), 1)
    if header.bits != 8:
        raise UndecodableImage(f"JPEG: {header.bits} bits per sample (allowed: 8)")
    try:
        pixels = _oriented(_jpeg_pixels(data, header, scale), header.orientation)
    except (DamagedJpeg, MemoryError):
        raise _undecodable("jpeg", data) from None
    swapped = header.orientation >= 5
    width, height = (header.height, header.width) if swapped else (header.width, header.height)
    box = _covered_box(pixels, width / scale, height / scale, header.orientation)
    return DecodedImage(pixels, box, width, height, "jpeg", len(data), scale)


def _jpeg_pixels(data: bytes, header: JpegHeader, scale: int) -> NDArray[np.uint8]:
    try:
        return decode_strictly(data, header, scale)
    except ValueError:
        return repaired_pixels(data, header, scale)


def _oriented(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return `pixels`, uint8 (H, W, 3), rotated and flipped to be upright, as a C-contiguous array.

    `orientation`: the value of the EXIF tag, 1 to 8. Any other value counts as 1, which changes nothing.
    """
    match orientation:
        case 2:
            oriented = pixels[:, ::-1]
        case 3:
            oriented = pixels[::-1, ::-1]
        case 4:
            oriented = pixels[::-1]
        case 5:
            oriented = pixels.swapaxes(0, 1)
        case 6:
            oriented = pixels.swapaxes(0, 1)[:, ::-1]
        case 7:
            oriented = pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            oriented = pixels.swapaxes(0, 1)[::-1]
        case _:
            return np.ascontiguousarray(pixels)
    result = np.empty(oriented.shape, dtype=np.uint8)
    for channel in range(3):  # three times as fast as one copy with an innermost loop of 3
        result[:, :, channel] = oriented[:, :, channel]
    return result


def _covered_box(pixels: NDArray[np.uint8], width: float, height: float, orientation: int) -> Box:
    """Return the part of the oriented `pixels` that the image covers.

    `width` and `height`: size of this part. `orientation`: the EXIF orientation that has been applied to
    `pixels`. In the pixels as stored, the part begins in the top left corner. Applying the orientation may
    have moved this corner.
    """
    left = pixels.shape[1] - width if orientation in (2, 3, 6, 7) else 0.0
    top = pixels.shape[0] - height if orientation in (3, 4, 7, 8) else 0.0
    return (left, top, left + width, top + height)


def _decode_with_pillow(data: bytes, kind: Format, max_pixels: int) -> NDArray[np.uint8]:
    if kind in _WITHOUT_METADATA:
        data = _WITHOUT_METADATA[kind](data)
    for width, height in _declared_early(data, kind):
        _check_pixels(kind, width, height, max_pixels)
    try:
        plugin = _heif_plugin() if kind == "heif" else _PILLOW[kind]
        assert plugin is not None
        image = plugin(io.BytesIO(data))
        _check_pixels(kind, *image.size, max_pixels)
        if isinstance(image, CheckedTiff):
            # Tiles are decoded whole, so a small image with one huge tile must be refused. If the file does
            # not give a tile's width or height, libtiff uses the image's.
            tags = image.tag_v2
            tile = int(tags.get(TILEWIDTH, image.width)), int(tags.get(TILELENGTH, image.height))
            _check_pixels(kind, *tile, max_pixels)
        return _oriented(*to_rgb(image))
    except (TooManyPixels, UndecodableImage):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooManyPixels(f"{_name(kind)}: too many pixels (limit: {max_pixels})") from None
    # Pillow's plugins raise nearly any exception type for malformed bytes (struct.error, KeyError,
    # SyntaxError, ZeroDivisionError, MemoryError for absurd sizes, ...).
    except Exception:
        raise _undecodable(kind, data) from None


def _declared_early(data: bytes, kind: Format) -> list[tuple[int, int]]:
    """Return the sizes (width, height) that are to be checked before Pillow's plugin is constructed.

    The check is so early because Pillow's plugin for GIF may allocate a frame when it is constructed, and the
    plugin for WebP allocates a canvas.
    """
    try:
        if kind == "gif":
            return [struct.unpack_from("<HH", data, 6)]
        if kind == "webp" and data[12:16] == b"VP8X":
            return [(int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)]
        if kind == "webp" and data[12:16] == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return [(width & 0x3FFF, height & 0x3FFF)]
        if kind == "webp" and data[12:16] == b"VP8L":
            (sizes,) = struct.unpack_from("<I", data, 21)
            return [((sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1)]
    except struct.error:
        raise _undecodable(kind, data) from None
    return []


def _check_pixels(kind: Format, width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise UndecodableImage(f"{_name(kind)}: {width} x {height} pixels (allowed: at least 1 x 1)")
    if width * height > max_pixels:
        raise TooManyPixels(
            f"{_name(kind)}: {width} x {height} = {width * height} pixels (limit: {max_pixels})"
        )


@functools.cache
def _heif_plugin() -> type[ImageFile] | None:
    """Import Pillow's HEIF plugin on first use and return it. Return None if it is not installed."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        return None
    plugin: type[ImageFile] = HeifImageFile
    return plugin


def _unknown(data: bytes) -> str:
    given = f"(given: {len(data)} bytes starting with {data[:8]!r}; allowed: {_SUPPORTED})"
    identified = identify_unsupported(data)
    if identified is None:
        return f"image: unknown type {given}"
    name, advice = identified
    return f"image: unsupported type '{name}'; {advice} {given}"


def _undecodable(kind: Format, data: bytes) -> UndecodableImage:
    return UndecodableImage(f"{_name(kind)}: truncated, corrupt or of a rare kind (given: {len(data)} bytes)")


def _name(kind: Format) -> str:
    return "WebP" if kind == "webp" else kind.upper()
