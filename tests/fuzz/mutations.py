"""Structure-aware mutations of PNG, TIFF, BMP, GIF, WebP and AVIF: chunks, tags, fields and boxes."""

from __future__ import annotations

import functools
import random
import struct
import zlib
from collections.abc import Callable

from tests.fuzz import raster_files
from tests.fuzz.jpeg_mutations import mutate_jpeg
from tests.fuzz.values import Order, any_number, change_number


@functools.cache
def _packed_zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def mutate_png(chance: random.Random, data: bytes) -> bytes:
    """Change, move, repeat, drop and add chunks; checksums mostly stay valid."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(chance.choice((1, 1, 2, 3))):
        if not chunks:
            break
        at = chance.randrange(len(chunks))
        kind, content = chunks[at]
        change = chance.choice(
            ("header", "header", "field", "field", "drop", "repeat", "swap", "add", "add", "pixels")
        )
        if change == "header":
            at = next((i for i, chunk in enumerate(chunks) if chunk[0] == b"IHDR"), at)
            header = bytearray(chunks[at][1])
            if chance.random() < 0.5:
                change_number(chance, header, chance.choice((0, 4)), 4, "big")
            else:
                change_number(chance, header, chance.randint(8, 12), 1, "big")
            chunks[at] = (chunks[at][0], bytes(header))
        elif change == "field" and content:
            changed = bytearray(content)
            change_number(
                chance, changed, chance.randrange(min(len(changed), 64)), chance.choice((1, 1, 2, 4)), "big"
            )
            chunks[at] = (kind, bytes(changed))
        elif change == "drop":
            del chunks[at]
        elif change == "repeat":
            chunks[at:at] = (
                [chunks[at]] * chance.choice((1, 1, 2, 200)) if len(content) < 3000 else [chunks[at]]
            )
        elif change == "swap":
            other = chance.randrange(len(chunks))
            chunks[at], chunks[other] = chunks[other], chunks[at]
        elif change == "add":
            chunks.insert(chance.randint(1, len(chunks)), _any_png_chunk(chance))
        elif change == "pixels":
            at = next((i for i, chunk in enumerate(chunks) if chunk[0] == b"IDAT"), at)
            half = len(chunks[at][1]) // 2
            pieces = (chunks[at][1][:half], chunks[at][1][half:])
            content = chance.choice((_packed_zeros(2**20), chunks[at][1] * 2, pieces[0], b""))
            chunks[at] = (b"IDAT", content)
    result = data[:8] + b"".join(raster_files.png_chunk(kind, content) for kind, content in chunks)
    if chance.random() < 0.05:
        result = result[:-1] + bytes([result[-1] ^ 1])
    return result


def _any_png_chunk(chance: random.Random) -> tuple[bytes, bytes]:
    bomb = _packed_zeros(chance.choice((10, 1000, 2**20 - 100, 2**22)))
    orientation = raster_files.exif(
        chance, chance.randrange(10), chance.choice((1, 3, 4, 9)), chance.choice("<>")
    )
    contents = {
        b"zTXt": b"Comment\0\0" + bomb,
        b"iTXt": b"Comment\0\1\0\0\0" + bomb,
        b"iCCP": b"icc\0\0" + bomb,
        b"tEXt": b"Comment\0" + chance.randbytes(30),
        b"eXIf": orientation,
        b"tRNS": chance.randbytes(chance.choice((0, 1, 2, 6, 256))),
        b"PLTE": chance.randbytes(chance.choice((0, 1, 3, 48, 768, 1000))),
        b"gAMA": chance.randbytes(4),
        b"cHRM": chance.randbytes(32),
        b"sRGB": b"\0",
        b"pHYs": chance.randbytes(9),
        b"acTL": struct.pack(">II", any_number(chance, 32, 2), any_number(chance, 32, 0)),
        b"fcTL": struct.pack(
            ">IIIIIHHBB",
            0,
            *(any_number(chance, 32, 20) for _ in range(4)),
            1,
            1,
            *chance.choice(((0, 0), (2, 1))),
        ),
        b"fdAT": chance.randbytes(20),
        b"IHDR": struct.pack(">IIBBBBB", 20, 20, 8, 2, 0, 0, 0),
        b"abCd": chance.randbytes(9),
        b"AbCd": chance.randbytes(9),
    }
    return chance.choice(list(contents.items()))


_TIFF_TAGS = (
    *(
        254,
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        274,
        277,
        278,
        279,
        284,
        292,
        317,
        320,
        322,
        323,
        324,
        325,
        330,
        338,
    ),
    *(339, 347, 512, 513, 514, 529, 530, 531, 532, 700, 33723, 34377, 34665, 34675, 34853),
)


def mutate_tiff(chance: random.Random, data: bytes) -> bytes:
    """Change tags, types, counts, values and offsets of the first directory, in place."""
    changed = bytearray(data)
    order: Order = "little" if data[:1] == b"I" else "big"
    directory = int.from_bytes(data[4:8], order)
    count = int.from_bytes(data[directory : directory + 2], order)
    for _ in range(chance.choice((1, 1, 2, 3))):
        entry = directory + 2 + 12 * chance.randrange(max(1, min(count, 64)))
        field = chance.choice(
            ("tag", "type", "count", "value", "value", "value", "short", "short", "number", "start")
        )
        if field == "tag" and entry + 2 <= len(changed):
            changed[entry : entry + 2] = chance.choice(_TIFF_TAGS).to_bytes(2, order)
        elif field == "type" and entry + 4 <= len(changed):
            changed[entry + 2 : entry + 4] = chance.randrange(20).to_bytes(2, order)
        elif field == "count":
            change_number(chance, changed, entry + 4, 4, order)
        elif field == "value":
            change_number(chance, changed, entry + 8, 4, order)
        elif field == "short":
            change_number(chance, changed, entry + 8, 2, order)
        elif field == "number":
            change_number(chance, changed, directory, 2, order)
        else:
            change_number(chance, changed, 4, 4, order)
    return bytes(changed)


_BMP_FIELDS = (
    (2, 4),
    (10, 4),
    (14, 4),
    (18, 4),
    (18, 4),
    (22, 4),
    (22, 4),
    (26, 2),
    (28, 2),
    (30, 4),
    (34, 4),
    (46, 4),
)


def mutate_bmp(chance: random.Random, data: bytes) -> bytes:
    """Change header fields, bit masks and the first palette entries."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at, size = chance.choice((*_BMP_FIELDS, (54 + 4 * chance.randrange(8), 4)))
        change_number(chance, changed, at, size)
    return bytes(changed)


def mutate_gif(chance: random.Random, data: bytes) -> bytes:
    """Change the screen, an image's position and size, its flags and code size, or an extension."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        images = [at for at in range(13, len(data) - 10) if data[at] in (0x2C, 0x21)]
        if chance.random() < 0.4 or not images:
            at, size = chance.choice(((6, 2), (8, 2), (10, 1), (11, 1), (12, 1)))
        else:
            start = images[min(int(chance.expovariate(0.7)), len(images) - 1)]
            offset, size = chance.choice(((0, 1), (1, 2), (3, 2), (5, 2), (7, 2), (9, 1), (10, 1), (11, 1)))
            at = start + offset
        change_number(chance, changed, at, size)
    return bytes(changed)


def mutate_webp(chance: random.Random, data: bytes) -> bytes:
    """Change chunks of the RIFF container and the headers of VP8, VP8L, VP8X and animation frames."""
    chunks, at = [], 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    for _ in range(chance.choice((1, 1, 2, 3))):
        if not chunks:
            break
        at = chance.randrange(len(chunks))
        kind, content = chunks[at]
        change = chance.choice(
            ("field", "field", "field", "field", "drop", "repeat", "swap", "kind", "extend")
        )
        if change == "field" and content:
            changed = bytearray(content)
            change_number(
                chance, changed, chance.randrange(min(len(changed), 32)), chance.choice((1, 1, 2, 3))
            )
            chunks[at] = (kind, bytes(changed))
        elif change == "drop":
            del chunks[at]
        elif change == "repeat":
            chunks.insert(at, chunks[at])
        elif change == "swap":
            other = chance.randrange(len(chunks))
            chunks[at], chunks[other] = chunks[other], chunks[at]
        elif change == "kind":
            kinds = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ", b"????")
            chunks[at] = (chance.choice(kinds), content)
        elif change == "extend":
            size = any_number(chance, 24, 40).to_bytes(3, "little") + any_number(chance, 24, 40).to_bytes(
                3, "little"
            )
            chunks.insert(0, (b"VP8X", bytes([chance.getrandbits(8), 0, 0, 0]) + size))
    body = b"".join(
        kind + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)
        for kind, content in chunks
    )
    length = len(body) + 4 if chance.random() < 0.9 else any_number(chance, 32, len(body) + 4)
    return b"RIFF" + length.to_bytes(4, "little") + b"WEBP" + body


_CONTAINERS = {
    b"meta": 4,
    b"iprp": 0,
    b"ipco": 0,
    b"moov": 0,
    b"trak": 0,
    b"mdia": 0,
    b"minf": 0,
    b"stbl": 0,
    b"iinf": 6,
}


def _boxes(data: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """Return (start, end) of every box, nested boxes included."""
    boxes: list[tuple[int, int]] = []
    while start + 8 <= end and len(boxes) < 500:
        length = int.from_bytes(data[start : start + 4]) or end - start
        stop = min(end, start + max(8, length))
        boxes.append((start, stop))
        if (skip := _CONTAINERS.get(data[start + 4 : start + 8])) is not None:
            boxes += _boxes(data, start + 8 + skip, stop)
        start = stop
    return boxes


def mutate_avif(chance: random.Random, data: bytes) -> bytes:
    """Change sizes, types and content of boxes; drop or repeat a box without adjusting offsets."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        boxes = _boxes(bytes(changed), 0, len(changed))
        if not boxes:
            break
        start, end = chance.choice(boxes)
        change = chance.choice(("content", "content", "content", "content", "size", "type", "drop", "repeat"))
        if change == "content" and end > start + 8:
            at = chance.randrange(start + 8, min(end, start + 72))
            change_number(chance, changed, at, chance.choice((1, 1, 2, 4)), "big")
        elif change == "size":
            change_number(chance, changed, start, 4, "big")
        elif change == "type":
            other, _ = chance.choice(boxes)
            changed[start + 4 : start + 8] = changed[other + 4 : other + 8]
        elif change == "drop":
            del changed[start:end]
        elif change == "repeat" and end - start < 3000:
            changed[end:end] = changed[start:end]
    return bytes(changed)


MUTATIONS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "jpeg": mutate_jpeg,
    "png": mutate_png,
    "tiff": mutate_tiff,
    "bmp": mutate_bmp,
    "gif": mutate_gif,
    "webp": mutate_webp,
    "avif": mutate_avif,
}
