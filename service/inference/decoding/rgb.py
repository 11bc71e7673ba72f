"""Conversion of Pillow images to 8-bit RGB: alpha over white, high bit depths scaled, EXIF orientation."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from service.inference.decoding.tiff import CheckedTiff

_EXIF = b"Exif\0\0"
_MAX_SIGNATURES = 2
"""Maximum number of signatures before an EXIF block. Some writers repeat the signature."""
_ORIENTATION = 0x0112
# struct codes of TIFF's integer types; 13 is an offset to a directory.
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}


def to_rgb(image: Image.Image) -> tuple[NDArray[np.uint8], int]:
    """Return the current frame of `image` as uint8 RGB (H, W, 3), and its EXIF orientation.

    The pixels are as stored: the orientation is not applied.

    Ignores colour profiles. Raises whatever Pillow raises for pixels that it cannot decode or convert.
    """
    # Pillow orients a TIFF on loading. If EXIF has no orientation, it would use that of XMP, which is ignored
    # here.
    for xmp in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(xmp, None)
    tiff_orientation = image.tag_v2.get(_ORIENTATION) if isinstance(image, CheckedTiff) else None
    image.load()
    orientation = 1
    if isinstance(image, CheckedTiff):
        if isinstance(tiff_orientation, bytes) and len(tiff_orientation) == 1:  # a type that Pillow ignores
            orientation = tiff_orientation[0]
    elif isinstance(exif := image.info.get("exif"), bytes):
        orientation = exif_orientation(exif)
    return _rgb_pixels(image), orientation


def exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, in an EXIF block's first directory.

    If the orientation is missing or invalid, the result is 1. The block may start with its signature. The tag
    may have any of TIFF's integer types. The standard allows only SHORT, but some cameras and editors write
    other types (EXIF 2.32, 4.6.4; TIFF 6.0, section 2).
    """
    for _ in range(_MAX_SIGNATURES):
        exif = exif.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, entry)
            if tag == _ORIENTATION:
                code = _INTEGERS.get(kind)
                if code is None or not values:
                    return 1
                inline = struct.calcsize(order + code) * values <= 4
                at = entry + 8 if inline else struct.unpack_from(order + "I", exif, entry + 8)[0]
                (value,) = struct.unpack_from(order + code, exif, at)
                return value if 1 <= value <= 8 else 1
    except struct.error:  # truncated EXIF is no reason to refuse the image
        pass
    return 1


def _rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        levels = image.levels() if isinstance(image, CheckedTiff) else np.asarray(image)
        grey = _eight_bits(levels)
        if isinstance(image, CheckedTiff) and image.white_is_zero:
            grey = 255 - grey
        if isinstance(transparent := image.info.get("transparency"), int):
            grey = np.where(np.asarray(image) == transparent, np.uint8(255), grey)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        undeclared = isinstance(image, BmpImageFile) or (
            isinstance(image, CheckedTiff) and image.mode == "RGBA" and not image.declares_alpha
        )
        if undeclared and image.getchannel("A").getextrema() == (0, 0):
            # Some screenshot tools and editors write an unused alpha channel of zeros; viewers ignore it.
            return np.asarray(image.convert("RGB"))
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image.getchannel("A"))
        return np.asarray(canvas)
    return np.asarray(image.convert("RGB"))


def _eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale grey values of 16 or 32 bits, integer or floating point, to uint8.

    For unsigned 16-bit values, black and white are the limits of the type. Wider types do not define white,
    so the first of these ranges that contains all values is used: 0 to 1 (floating point only), 0 to 255, 0
    to 65535, the smallest to the largest value.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    levels = np.nan_to_num(values.astype(np.float64))
    low, high = float(levels.min()), float(levels.max())
    if low >= 0 and high <= 65535:
        low = 0.0
        common_ranges = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
        high = next(limit for limit in common_ranges if high <= limit)
    # Both are halved first, because the difference of the float64 extremes would overflow.
    span = high / 2 - low / 2
    return ((levels / 2 - low / 2) * (255 / span) + 0.5).astype(np.uint8)
