"""What a JPEG's header says, orientation included, read without decoding anything."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from service.errors import UndecodableImage

_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_SHORT = 3
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_APP1 = 0xE1
# Frame headers are C0 to CF but for these three (Huffman tables, reserved, arithmetic conditioning).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xCA})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})

# libjpeg-turbo scales what a discrete cosine transform coded: baseline, extended and progressive frames, with
# Huffman or arithmetic codes. A lossless frame (C3) has no transform: decoded at a scale, libjpeg-turbo
# before 3.1.4 writes its full size into the scaled one's buffer. It decodes no hierarchical frames.
_DECODED_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_FRAME_KINDS = {0xC3: "lossless", 0xCB: "lossless"}

# Far above what cameras and editors write; below what would keep a core busy for the sake of a small body.
_MOST_SEGMENTS = 4096
_MOST_SCANS = 100


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """The frame header of a JPEG and its EXIF orientation.

    `width` and `height` are as stored, before the orientation is applied; `orientation` is 1 to 8.
    """

    width: int
    height: int
    components: int
    bits: int
    orientation: int


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Walk the segments of `data`, a JPEG, up to its first scan; microseconds, whatever the picture's size.

    Raises UndecodableImage when there is no complete frame header before the first scan, when the frame is
    lossless or hierarchical, when the picture has no pixels, or when its segments or scans are so many that
    it can only be meant to cost time.
    """
    orientation = 1
    frame: tuple[int, int, int, int] | None = None
    frame_marker = 0
    position = 2
    for _ in range(_MOST_SEGMENTS):
        # Stray bytes between segments are skipped, as libjpeg and every browser do.
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            break
        marker = data[position + 1]
        if marker in (0x00, 0xFF):
            position += 1
            continue
        if marker in _WITHOUT_LENGTH:
            position += 2
            continue
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            break
        start, length = position + 4, int.from_bytes(data[position + 2 : position + 4]) - 2
        if marker in _FRAMES and frame is None:
            if start + 6 > len(data) or length < 6:
                break
            frame = struct.unpack_from(">BHHB", data, start)
            frame_marker = marker
        elif marker == _APP1 and data.startswith(_EXIF, start):
            orientation = _exif_orientation(data[start + len(_EXIF) : start + length])
        position = start + max(length, 0)
    else:
        raise UndecodableImage(f"The JPEG has more than {_MOST_SEGMENTS} segments before its first scan.")

    if frame is None:
        raise UndecodableImage(f"The JPEG ends before its size is told: {len(data)} bytes were given.")
    if frame_marker not in _DECODED_FRAMES:
        kind = _FRAME_KINDS.get(frame_marker, "hierarchical")
        raise UndecodableImage(
            f"the JPEG is {kind} (frame type SOF{frame_marker - 0xC0}), which is not decoded "
            "(allowed: baseline, extended and progressive)"
        )
    bits, height, width, components = frame
    if not width or not height:
        raise UndecodableImage(f"The JPEG says that it is {width} x {height} pixels large.")
    # Every scan of a progressive picture visits all of it. In coded data FF is followed by 00, so this
    # counts scans and nothing else (and those of an embedded thumbnail).
    if frame_marker in _PROGRESSIVE and (scans := data.count(b"\xff\xda")) > _MOST_SCANS:
        raise UndecodableImage(f"The progressive JPEG has {scans} scans; at most {_MOST_SCANS} are decoded.")
    return JpegHeader(width, height, components, bits, orientation)


def _exif_orientation(tiff: bytes) -> int:
    """The orientation tag of an EXIF block's first directory; 1 where it is absent or senseless."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and 1 <= value <= 8 else 1
    except struct.error:  # the block ends early: no reason to refuse the picture
        pass
    return 1
