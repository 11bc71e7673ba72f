"""Writers of PNG, BMP and TIFF variants that Pillow reads but does not write."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence

# Bits per sample by PNG colour type, and samples per pixel.
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First column and row of each of the seven passes, and the steps between columns and rows.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    chance: random.Random, width: int, height: int, depth: int, colour: int, *, interlaced: bool = False
) -> bytes:
    """Return a PNG of random bytes and filters, with a palette if needed and sometimes transparency."""
    pixel_bits = depth * _PNG_SAMPLES[colour]
    rows = bytearray()
    for left, top, step_x, step_y in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, lines = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and lines > 0:
            for _ in range(lines):
                rows.append(chance.randrange(5))
                rows += chance.randbytes(-(-columns * pixel_bits // 8))
    chunks = [png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))]
    if colour == 3:
        chunks.append(png_chunk(b"PLTE", chance.randbytes(3 << depth)))
    if colour in (0, 2, 3) and chance.random() < 0.5:
        size = {0: 2, 2: 6, 3: 1 << depth}[colour]
        chunks.append(png_chunk(b"tRNS", chance.randbytes(size)))
    chunks += [png_chunk(b"IDAT", zlib.compress(bytes(rows), 1)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bmp(
    chance: random.Random,
    width: int,
    height: int,
    bits: int,
    *,
    header: int = 40,
    compression: int = 0,
    top_down: bool = False,
) -> bytes:
    """Return a BMP of random pixels; `compression` 1 and 2 are run lengths, 3 and 6 bit masks."""
    masks = {16: (0xF800, 0x07E0, 0x001F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0xFF000000)}.get(bits, (0,) * 4)
    if header == 12:
        information = struct.pack("<IHHHH", 12, width & 0xFFFF, height & 0xFFFF, 1, bits)
    else:
        rows = -height if top_down else height
        information = struct.pack("<IiiHHIIIIII", header, width, rows, 1, bits, compression, 0, 0, 0, 0, 0)
        rest = struct.pack("<IIII", *masks) if compression in (3, 6) else b""
        information = (information + rest).ljust(header, b"\0")[:header]
        if compression in (3, 6) and header == 40:
            information += rest[: 12 if compression == 3 else 16]
    palette = chance.randbytes((3 if header == 12 else 4) << bits) if bits <= 8 else b""
    if compression in (1, 2):
        pixels = b"".join(_run_lengths(chance, width) for _ in range(height)) + b"\0\1"
    else:
        pixels = chance.randbytes((width * bits + 31) // 32 * 4 * height)
    start = 14 + len(information) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + information + palette + pixels


def _run_lengths(chance: random.Random, width: int) -> bytes:
    row, left = b"", width
    while left > 0:
        run = min(left, chance.randint(1, 255))
        if run >= 3 and chance.random() < 0.4:  # an absolute run, padded to 16 bits
            row += bytes([0, run]) + chance.randbytes((run + 1) // 2 * 2)
        else:
            row += bytes([run, chance.randrange(256)])
        left -= run
    return row + b"\0\0"


Entry = tuple[int, int, Sequence[int]]
_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 16: "Q"}


def tiff_directory(entries: Sequence[Entry], order: str, offset: int, following: int = 0) -> bytes:
    """Return an image file directory at `offset`, followed by its values; `order` is < or >."""
    directory = struct.pack(order + "H", len(entries))
    values_at = offset + 2 + 12 * len(entries) + 4
    values = b""
    for tag, kind, numbers in sorted(entries):
        packed = b"".join(struct.pack(order + _TYPES[kind], number) for number in numbers)
        directory += struct.pack(order + "HHI", tag, kind, len(numbers))
        if len(packed) <= 4:
            directory += packed.ljust(4, b"\0")
        else:
            directory += struct.pack(order + "I", values_at + len(values))
            values += packed + b"\0" * (len(packed) % 2)
    return directory + struct.pack(order + "I", following) + values


def tiff(
    chance: random.Random,
    width: int,
    height: int,
    *,
    samples: int = 3,
    bits: int = 8,
    tile: int = 0,
    planar: bool = False,
    deflate: bool = False,
    more: Sequence[Entry] = (),
    sample_format: int = 1,
    photometric: int | None = None,
    predictor: int = 1,
    order: str = "<",
    blank: bool = False,
) -> bytes:
    """Return a TIFF of random or blank pixels in strips or square tiles (of `tile`, a multiple of 16).

    `more`: additional directory entries.
    """
    columns, rows = (tile, tile) if tile else (width, min(height, 16))
    pieces = -(-width // columns) * -(-height // rows) * (samples if planar else 1)
    bytes_each = -(-columns * bits * (1 if planar else samples) // 8) * rows
    pixels = [bytes(bytes_each) if blank else chance.randbytes(bytes_each) for _ in range(pieces)]
    if deflate:
        pixels = [zlib.compress(piece, 1) for piece in pixels]
    starts, position = [], 8
    for piece in pixels:
        starts.append(position)
        position += len(piece) + len(piece) % 2
    if photometric is None:
        photometric = 2 if samples >= 3 else 1
    entries: list[Entry] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * samples),
        (259, 3, [8 if deflate else 1]),
        (262, 3, [photometric]),
        (277, 3, [samples]),
        (284, 3, [2 if planar else 1]),
        (317, 3, [predictor]),
        (339, 3, [sample_format] * samples),
    ]
    lengths = [len(piece) for piece in pixels]
    if tile:
        entries += [(322, 4, [tile]), (323, 4, [tile]), (324, 4, starts), (325, 4, lengths)]
    else:
        entries += [(273, 4, starts), (278, 4, [rows]), (279, 4, lengths)]
    if samples == 4 or (samples == 2 and photometric == 1):
        entries.append((338, 3, [chance.choice((0, 1, 2))]))
    if photometric == 3:
        entries.append((320, 3, [chance.getrandbits(16) for _ in range(3 << bits)]))
    entries += more
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, position)
    data = b"".join(piece + b"\0" * (len(piece) % 2) for piece in pixels)
    return head + data + tiff_directory(entries, order, position)


def exif(chance: random.Random, orientation: int, kind: int = 3, order: str = "<") -> bytes:
    """Return an EXIF block (without a format's own prefix) whose orientation has TIFF type `kind`."""
    entries: list[Entry] = [(0x0112, kind, [orientation]), (0x010F, 2, list(b"Maker\0"))]
    if chance.random() < 0.3:
        entries.append((0x8769, 4, [8]))  # a subdirectory that points back to the first directory
    return struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8) + tiff_directory(
        entries, order, 8
    )
