"""JPEG files built segment by segment, for tests of unusual headers."""

from __future__ import annotations

import struct

FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
"""Every marker that begins a frame."""


def segment(marker: int, content: bytes = b"") -> bytes:
    """Return a marker segment with its length and content."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def lossless(width: int, height: int, *, components: int = 3, bits: int = 8, marker: int = 0xC3) -> bytes:
    """Return a lossless JPEG of one colour: each difference from the prediction is 0, coded as one bit."""
    ids = range(1, components + 1)
    frame = struct.pack(">BHHB", bits, height, width, components)
    frame += b"".join(bytes([component, 0x11, 0]) for component in ids)
    one_code_of_length_1 = bytes([0, 1, *[0] * 15, 0])
    scan = bytes([components]) + b"".join(bytes([component, 0]) for component in ids) + bytes([1, 0, 0])
    coded = bytes(-(-width * height * components // 8))
    return (
        b"\xff\xd8"
        + segment(marker, frame)
        + segment(0xC4, one_code_of_length_1)
        + segment(0xDA, scan)
        + coded
        + b"\xff\xd9"
    )


def segments(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return marker, offset and bytes of each segment of a valid JPEG, up to its first scan header."""
    offset, parts = 2, []
    while True:
        length = 2 + int.from_bytes(data[offset + 2 : offset + 4])
        parts.append((data[offset + 1], offset, data[offset : offset + length]))
        if data[offset + 1] == 0xDA:
            return parts
        offset += length


def offset_of(data: bytes, *markers: int) -> int:
    """Return the offset of the first segment with one of `markers`."""
    return next(offset for marker, offset, _ in segments(data) if marker in markers)
