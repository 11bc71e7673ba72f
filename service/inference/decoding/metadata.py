"""Strip metadata that can make a PNG or WebP undecodable; correct PNG transparency for Pillow."""

from __future__ import annotations

import struct
import zlib

from service.errors import UndecodableImage

_SIGNATURE_BYTES = 8
_FRAME_BYTES = 12
"""Bytes of a chunk's length, name and checksum."""
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_GREY, _RGB, _PALETTE = 0, 2, 3
_MAX_CHUNKS = 50_000
"""Maximum number of chunks. Writers put far fewer into 20 MB, and this many do not keep a core busy."""

_RIFF_BYTES = 12
_IMAGE_CHUNKS = frozenset({b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF"})
_EXIF_FLAG, _ICC_AND_XMP_FLAGS = 0x08, 0x24


def webp_without_metadata(data: bytes) -> bytes:
    """Copy the chunks of a WebP that pixels depend on, and the EXIF chunk if it is complete.

    Corrects the file size field. Raises UndecodableImage for more than 50 000 chunks.
    """
    chunks: list[tuple[bytes, bytes]] = []
    position = _RIFF_BYTES
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            break
        name, length = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        end = position + 8 + length
        if name in _IMAGE_CHUNKS or (name == b"EXIF" and end <= len(data)):
            chunks.append((name, data[position:end] + bytes(length % 2 if end <= len(data) else 0)))
        position = end + length % 2
    else:
        raise UndecodableImage(f"WebP: more than {_MAX_CHUNKS} chunks")
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
    """Copy the chunks of a PNG that its first image depends on.

    Ancillary chunks have a name that starts with a lower-case letter. Of these, only two are kept: an EXIF
    block with a valid checksum, and transparency that libpng accepts. Text, profiles, suggested palettes,
    physical sizes and animations are dropped. A truncated critical chunk is kept, and the decoder refuses it.

    Raises UndecodableImage for an unknown critical chunk, for more than 50 000 chunks, and for a 16-bit
    transparent colour.
    """
    header = data[_SIGNATURE_BYTES + 8 : _SIGNATURE_BYTES + 8 + 13].ljust(13, b"\0")
    pieces = [data[:_SIGNATURE_BYTES]]
    palette: int | None = None
    pixels_begun = False
    position = _SIGNATURE_BYTES
    for _ in range(_MAX_CHUNKS):
        if position + _FRAME_BYTES > len(data):
            break
        length = int.from_bytes(data[position : position + 4])
        name = data[position + 4 : position + 8]
        end = position + _FRAME_BYTES + length
        whole = end <= len(data)
        if name == b"PLTE" and header[9] == _PALETTE:
            palette = length // 3
        if name == b"IDAT":
            pixels_begun = True
        if name == b"tRNS":
            if whole and not pixels_begun and _has_valid_checksum(data[position:end]):
                pieces.append(_transparency(data[position:end], header, palette))
        elif name in _CRITICAL:
            if name != b"PLTE" or palette is not None:
                pieces.append(data[position:end])
        elif name[:1].isupper():
            raise UndecodableImage(f"PNG: unknown critical chunk {name.decode('latin-1')!r}")
        elif name == b"eXIf" and whole and _has_valid_checksum(data[position:end]):
            pieces.append(data[position:end])
        position = end
        if name == b"IEND":
            break
    else:
        raise UndecodableImage(f"PNG: more than {_MAX_CHUNKS} chunks")
    return b"".join(pieces)


def _has_valid_checksum(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def _transparency(chunk: bytes, header: bytes, palette: int | None) -> bytes:
    """Return the tRNS chunk in the form that Pillow needs, or no bytes if libpng ignores the chunk.

    Section 11.3.2.1 of the PNG specification defines the chunk.

    Pillow scales pixels of fewer than 8 bits to 8 bits, and then compares them with the transparent grey. So
    the transparent grey is scaled here.
    """
    depth, colour = header[8], header[9]
    length = len(chunk) - _FRAME_BYTES
    if colour == _RGB and length == 6:
        if depth == 16:  # Pillow reduces pixels to 8 bits before it compares them
            raise UndecodableImage(
                "PNG: transparent 16-bit colour is unsupported (allowed: 8 bits, or alpha)"
            )
        return chunk
    if colour == _PALETTE:
        return chunk if palette is not None and 0 < length <= palette else b""
    if colour != _GREY or length != 2:
        return b""
    if depth in (1, 2, 4):
        level = int.from_bytes(chunk[8:10]) & (2**depth - 1)
        content = b"tRNS" + struct.pack(">H", level * 255 // (2**depth - 1))
        return chunk[:4] + content + zlib.crc32(content).to_bytes(4)
    return chunk
