"""Any picture that Pillow can open to 8-bit RGB: alpha over white, high bit depths scaled, not clipped."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from service.inference.decoding.tiff import CheckedTiff

_EXIF = b"Exif\0\0"
_MOST_SIGNATURES = 2
"""Some writers put one before a block that has one."""
_ORIENTATION = 0x0112
# Codes of TIFF's integer types, as struct reads them; 13 is an offset to a directory.
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """The current frame of `image` as uint8 (H, W, 3), upright.

    Colour profiles are left alone. Raises whatever Pillow raises for pixels that it cannot decode or convert.
    """
    # Pillow turns a TIFF itself when it loads it, and would take the orientation of XMP where EXIF has none:
    # that counts here for no format.
    for xmp in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(xmp, None)
    tiff_orientation = image.tag_v2.get(_ORIENTATION) if isinstance(image, CheckedTiff) else None
    image.load()
    orientation = 1
    if isinstance(image, CheckedTiff):
        if (
            isinstance(byte := tiff_orientation, bytes) and len(byte) == 1
        ):  # a type that Pillow does not turn by
            orientation = byte[0]
    elif isinstance(exif := image.info.get("exif"), bytes):
        orientation = exif_orientation(exif)
    return upright(_pixels(image), orientation)


def exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, in an EXIF block's first directory; 1 where it is absent or senseless.

    The block may begin with its signature. The tag may have any of TIFF's integer types: the standard says
    SHORT, cameras and editors write others (EXIF 2.32, 4.6.4; TIFF 6.0, section 2).
    """
    for _ in range(_MOST_SIGNATURES):
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
    except struct.error:  # the block ends early: no reason to refuse the picture
        pass
    return 1


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation (1 to 8; anything else is taken as 1) on (H, W, 3); C-contiguous."""
    match orientation:
        case 2:
            turned = pixels[:, ::-1]
        case 3:
            turned = pixels[::-1, ::-1]
        case 4:
            turned = pixels[::-1]
        case 5:
            turned = pixels.swapaxes(0, 1)
        case 6:
            turned = pixels.swapaxes(0, 1)[:, ::-1]
        case 7:
            turned = pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            turned = pixels.swapaxes(0, 1)[::-1]
        case _:
            return np.ascontiguousarray(pixels)
    result = np.empty(turned.shape, dtype=np.uint8)
    for channel in range(3):  # three times as fast as one copy, whose innermost loop would have three steps
        result[:, :, channel] = turned[:, :, channel]
    return result


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
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
            # Screenshots and editors have an alpha channel and leave it empty; viewers show the colours.
            return np.asarray(image.convert("RGB"))
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image.getchannel("A"))
        return np.asarray(canvas)
    return np.asarray(image.convert("RGB"))


def _eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Map grey values of 16 or 32 bits, whole or floating point, onto 0 to 255.

    Unsigned 16-bit values use their type's whole range. Wider types do not say what white is, so the
    smallest customary range that holds the values is taken: 0 to 1 (floating point only), 0 to 255,
    0 to 65535, else from the smallest to the largest value.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    levels = np.nan_to_num(values.astype(np.float64))
    low, high = float(levels.min()), float(levels.max())
    if low >= 0 and high <= 65535:
        low = 0.0
        customary = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
        high = next(limit for limit in customary if high <= limit)
    # Halved first: the distance between the extremes of float64 would overflow.
    span = high / 2 - low / 2
    return ((levels / 2 - low / 2) * (255 / span) + 0.5).astype(np.uint8)
