"""PNG and WebP without the metadata that may spoil them, and with transparency that Pillow reads right."""

from __future__ import annotations

import struct
import zlib

from service.errors import UndecodableImage

_SIGNATURE_BYTES = 8
_FRAME_BYTES = 12
"""Length, name and checksum of a chunk."""
_GREY, _RGB = 0, 2

_RIFF_BYTES = 12
_PICTURE_CHUNKS = frozenset({b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF"})
_EXIF_FLAG, _ICC_AND_XMP_FLAGS = 0x08, 0x24


def webp_without_metadata(data: bytes) -> bytes:
    """Copy the chunks of a WebP that its pictures depend on, and EXIF that is whole; mend the total size."""
    chunks: list[tuple[bytes, bytes]] = []
    position = _RIFF_BYTES
    while position + 8 <= len(data):
        name, length = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        end = position + 8 + length
        if name in _PICTURE_CHUNKS or (name == b"EXIF" and end <= len(data)):
            chunks.append((name, data[position:end] + bytes(length % 2 if end <= len(data) else 0)))
        position = end + length % 2
    has_exif = any(name == b"EXIF" for name, _ in chunks)
    pieces = []
    for name, chunk in chunks:
        if name == b"VP8X" and len(chunk) > 8:
            flags = chunk[8] & ~(_ICC_AND_XMP_FLAGS | (0 if has_exif else _EXIF_FLAG))
            chunk = chunk[:8] + bytes([flags]) + chunk[9:]
        pieces.append(chunk)
    body = b"WEBP" + b"".join(pieces)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def png_without_metadata(data: bytes) -> bytes:
    """Copy the chunks of a PNG that its first picture depends on.

    Of the ancillary chunks (their name begins with a small letter) only transparency and a sound EXIF block
    stay; text, profiles, physical sizes and animations may have any length and checksum. A critical chunk
    that is cut off stays, for the decoder to refuse. UndecodableImage for a transparent colour of 16 bits.
    """
    header = data[_SIGNATURE_BYTES + 8 : _SIGNATURE_BYTES + 8 + 13]
    pieces = [data[:_SIGNATURE_BYTES]]
    position = _SIGNATURE_BYTES
    while position + _FRAME_BYTES <= len(data):
        length = int.from_bytes(data[position : position + 4])
        name = data[position + 4 : position + 8]
        end = position + _FRAME_BYTES + length
        if name == b"tRNS":
            pieces.append(_transparency(data[position:end], header))
        elif name[:1].isupper() or (name == b"eXIf" and end <= len(data) and _is_sound(data[position:end])):
            pieces.append(data[position:end])
        position = end
        if name == b"IEND":
            break
    return b"".join(pieces)


def _is_sound(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def _transparency(chunk: bytes, header: bytes) -> bytes:
    """The chunk tRNS as Pillow reads it right: grey of fewer than 8 bits is compared after it was scaled."""
    if len(header) < 13 or not _is_sound(chunk):
        return chunk
    depth, colour = header[8], header[9]
    if colour == _RGB and depth == 16:  # the pixels have 8 bits left when they are compared
        raise UndecodableImage(
            "the PNG has 16-bit colours with a transparent one (allowed: 8 bits, or alpha)"
        )
    if colour == _GREY and depth in (1, 2, 4) and len(chunk) == _FRAME_BYTES + 2:
        level = int.from_bytes(chunk[8:10]) & (2**depth - 1)
        content = b"tRNS" + struct.pack(">H", level * 255 // (2**depth - 1))
        return chunk[:4] + content + zlib.crc32(content).to_bytes(4)
    return chunk
