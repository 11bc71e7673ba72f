"""Writers of JPEG files of every frame type, also of those that no installed library writes."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence

# Frame types by the low digit of their marker (FFCn); 4, 8 and 12 are not frames.
DCT_FRAMES = (0, 1, 2)
LOSSLESS_FRAME = 3
DIFFERENTIAL_FRAMES = (5, 6, 7, 13, 14, 15)
ARITHMETIC_FRAMES = (9, 10, 11)

Factors = Sequence[tuple[int, int]]

_DC_CATEGORIES = bytes(range(17))
_END_OF_BLOCK = 0x00
_AC_SYMBOLS = bytes([0x00, 0x01, 0x02, 0x03, 0x11, 0x12, 0x21, 0x31, 0xF0, 0x04, 0x05, 0x41])
_RUN_SYMBOLS = bytes(range(0, 0xF0, 0x10))  # progressive: 2**n blocks and more end here
_CODE_BITS = 5


def segment(marker: int, payload: bytes) -> bytes:
    """Return a marker segment; the length of a longer payload is truncated to 16 bits."""
    return struct.pack(">BBH", 0xFF, marker, (len(payload) + 2) & 0xFFFF) + payload


def frame_header(marker: int, width: int, height: int, factors: Factors, bits: int = 8) -> bytes:
    """Return a frame header (FFCn, or FFDE for a hierarchical image) of `len(factors)` components."""
    components = b"".join(bytes([i + 1, h << 4 | v, 0]) for i, (h, v) in enumerate(factors))
    return segment(marker, struct.pack(">BHHB", bits, height, width, len(factors)) + components)


def scan_header(components: Sequence[int], start: int = 0, end: int = 63, approximation: int = 0) -> bytes:
    """Return a start of scan of the components with these indices, all with Huffman table 0."""
    selected = b"".join(bytes([i + 1, 0]) for i in components)
    return segment(0xDA, bytes([len(components)]) + selected + bytes([start, end, approximation]))


def huffman_table(kind: int, symbols: bytes) -> bytes:
    """Return a Huffman table of class `kind` (0: DC or lossless, 1: AC) whose codes all have five bits."""
    counts = bytearray(16)
    counts[_CODE_BITS - 1] = len(symbols)
    return segment(0xC4, bytes([kind << 4]) + bytes(counts) + symbols)


def _padded(bits: list[str]) -> bytes:
    """Return bits as entropy-coded bytes, padded with ones, with FF escaped as FF 00."""
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return int("1" + text, 2).to_bytes(len(text) // 8 + 1)[1:].replace(b"\xff", b"\xff\0")


def _value(category: int, chance: random.Random) -> str:
    """Return the bits of a random value of a Huffman category; category 16 has no bits."""
    return "" if category in (0, 16) else f"{chance.getrandbits(category):0{category}b}"


class _Scan:
    """Entropy-coded segments with a restart marker after every `restart` MCUs (0: none)."""

    def __init__(self, restart: int) -> None:
        self._restart = restart
        self._units = 0
        self._pieces: list[bytes] = []
        self.bits: list[str] = []

    def unit_begins(self) -> None:
        """Begin an MCU; insert a restart marker first if one is due."""
        if self._restart and self._units and self._units % self._restart == 0:
            self._pieces += [_padded(self.bits), bytes([0xFF, 0xD0 + (self._units // self._restart - 1) % 8])]
            self.bits = []
        self._units += 1

    def __bytes__(self) -> bytes:
        return b"".join([*self._pieces, _padded(self.bits)])


def _code(symbols: bytes, symbol: int) -> str:
    return f"{symbols.index(symbol):0{_CODE_BITS}b}"


def _units(width: int, height: int, factors: Factors, components: Sequence[int]) -> tuple[int, int]:
    """Return the number of MCUs in a scan of these components, and the number of blocks per MCU."""
    most_h, most_v = max(h for h, _ in factors), max(v for _, v in factors)
    if len(components) > 1:
        columns, rows = -(-width // (8 * most_h)), -(-height // (8 * most_v))
        return columns * rows, sum(factors[i][0] * factors[i][1] for i in components)
    h, v = factors[components[0]]
    columns, rows = math.ceil(width * h / most_h), math.ceil(height * v / most_v)
    return math.ceil(columns / 8) * math.ceil(rows / 8), 1


def _sequential_scan(chance: random.Random, units: tuple[int, int], restart: int, detail: bool) -> bytes:
    scan = _Scan(restart)
    end = _code(_AC_SYMBOLS, _END_OF_BLOCK)
    for _ in range(units[0]):
        scan.unit_begins()
        for _ in range(units[1]):
            category = chance.choice((0, 0, 0, 1, 2, 3))
            scan.bits += [_code(_DC_CATEGORIES, category), _value(category, chance)]
            for _ in range(chance.randrange(4) if detail else 0):
                symbol = chance.choice(_AC_SYMBOLS[1:])
                scan.bits += [_code(_AC_SYMBOLS, symbol), _value(symbol & 15, chance)]
            scan.bits.append(end)
    return bytes(scan)


def dct_jpeg(
    chance: random.Random,
    width: int,
    height: int,
    factors: Factors = ((1, 1),),
    *,
    frame: int = 0,
    bits: int = 8,
    restart: int = 0,
    interleaved: bool = True,
    detail: bool = True,
    again: int = 0,
) -> bytes:
    """Return a sequential (`frame` 0 or 1) or progressive (2) Huffman-coded JPEG of random coefficients.

    Without `interleaved`, each component has its own scan. `again`: number of additional scans of the first
    component, each of which makes a decoder visit all blocks for a few bytes.
    """
    every = tuple(range(len(factors)))
    parts = [
        b"\xff\xd8",
        segment(0xDB, b"\0" + bytes([chance.choice((1, 2, 8, 40))]) * 64),
        frame_header(0xC0 + frame, width, height, factors, bits),
        huffman_table(0, _DC_CATEGORIES[:16]),
        huffman_table(1, _RUN_SYMBOLS if frame == 2 else _AC_SYMBOLS),
    ]
    if restart:
        parts.append(segment(0xDD, struct.pack(">H", restart)))
    if frame == 2:
        parts += _progressive_scans(chance, width, height, factors, restart, again)
    else:
        for components in [every] if interleaved else [(i,) for i in every] + [(0,)] * again:
            units = _units(width, height, factors, components)
            parts += [scan_header(components), _sequential_scan(chance, units, restart, detail)]
    return b"".join([*parts, b"\xff\xd9"])


def _progressive_scans(
    chance: random.Random, width: int, height: int, factors: Factors, restart: int, again: int
) -> list[bytes]:
    """Return scans: DC without its last bit, that bit, then AC scans in which every block is empty."""
    every = tuple(range(len(factors)))
    units, blocks = _units(width, height, factors, every)
    first, last = _Scan(restart), _Scan(restart)
    for _ in range(units):
        first.unit_begins()
        last.unit_begins()
        for _ in range(blocks):
            category = chance.choice((0, 0, 0, 1, 2, 3))
            first.bits += [_code(_DC_CATEGORIES, category), _value(category, chance)]
            last.bits.append(chance.choice("01"))
    scans = [scan_header(every, 0, 0, 1), bytes(first), scan_header(every, 0, 0, 0x10), bytes(last)]
    if restart:
        scans.append(segment(0xDD, b"\0\0"))
    for component in [*every, *[0] * again]:
        scans += [scan_header((component,), 1, 63), _empty_scan(_units(width, height, factors, (component,)))]
    return scans


def _empty_scan(units: tuple[int, int]) -> bytes:
    left, bits = units[0], []
    while left:
        exponent = min(left.bit_length() - 1, 14)
        run = min(left, 2 ** (exponent + 1) - 1)
        bits.append(_code(_RUN_SYMBOLS, exponent << 4))
        if exponent:
            bits.append(f"{run - 2**exponent:0{exponent}b}")
        left -= run
    return _padded(bits)


def lossless_jpeg(
    chance: random.Random,
    width: int,
    height: int,
    components: int = 3,
    *,
    bits: int = 8,
    predictor: int = 1,
    shift: int = 0,
    flat: bool = True,
    marker: int = 0xC3,
) -> bytes:
    """Return a lossless JPEG (SOF3) of `bits` 2 to 16. `flat`: all differences are 0, one bit each."""
    factors = ((1, 1),) * components
    count = width * height * components
    if flat:
        table = segment(0xC4, bytes([0, 1, *[0] * 15, 0]))
        scan = bytes(-(-count // 8))
    else:
        table = huffman_table(0, _DC_CATEGORIES)
        pieces = []
        for _ in range(count):
            category = chance.choice((0, 0, 1, 1, 2, 3, min(bits, 16)))
            pieces += [_code(_DC_CATEGORIES, category), _value(category, chance)]
        scan = _padded(pieces)
    start = scan_header(tuple(range(components)), predictor, 0, shift)
    return (
        b"\xff\xd8" + frame_header(marker, width, height, factors, bits) + table + start + scan + b"\xff\xd9"
    )


def arithmetic_jpeg(
    chance: random.Random, frame: int, width: int, height: int, factors: Factors, *, bits: int = 8
) -> bytes:
    """Return a JPEG of frame 9, 10 or 11 over random data, most of which decoders accept."""
    conditioning = segment(
        0xCC, bytes([0x00, chance.choice((0x10, 0x21, 0xF0)), 0x10, chance.randint(1, 63)])
    )
    data = chance.randbytes(chance.randrange(8 + width * height // 16)).replace(b"\xff", b"\xff\0")
    every = tuple(range(len(factors)))
    if frame == 10:
        scans = scan_header(every, 0, 0, 1) + data + scan_header((0,), 1, 63, 0) + data
    elif frame == 11:
        scans = scan_header(every, 1, 0, 0) + data
    else:
        scans = scan_header(every) + data
    quantization = segment(0xDB, b"\0" + bytes([4]) * 64)
    header = frame_header(0xC0 + frame, width, height, factors, bits)
    return b"\xff\xd8" + quantization + header + conditioning + scans + b"\xff\xd9"


def hierarchical_jpeg(
    chance: random.Random, frame: int, width: int, height: int, factors: Factors, *, expand: bool = True
) -> bytes:
    """Return a hierarchical JPEG: half the size as frame 0, then a differential frame (5 to 7, 13 to 15)."""
    small = dct_jpeg(chance, max(1, width // 2), max(1, height // 2), factors)
    large = dct_jpeg(chance, width, height, factors, frame=2 if frame in (6, 14) else 0)
    large = large.replace(bytes([0xFF, 0xC2 if frame in (6, 14) else 0xC0]), bytes([0xFF, 0xC0 + frame]), 1)
    expansion = segment(0xDF, b"\x11") if expand else b""
    header = frame_header(0xDE, width, height, factors)
    return b"\xff\xd8" + header + small[2:-2] + expansion + large[2:]


def any_jpeg(chance: random.Random) -> bytes:
    """Return a JPEG of any frame type, size, precision and colour resolution; most are valid."""
    frame = chance.choice((0, 0, 1, 2, 2, 3, 3, 3, *DIFFERENTIAL_FRAMES, *ARITHMETIC_FRAMES))
    width, height = (chance.choice((1, 7, 8, 9, 16, 33, 64, chance.randint(1, 130))) for _ in range(2))
    bits = chance.choice((8, 8, 8, 8, 12, 16, chance.randint(1, 17)))
    factors = any_factors(chance)
    if frame == LOSSLESS_FRAME:
        flat = chance.random() < 0.7
        if flat:
            width, height = width * chance.randint(1, 6), height * chance.randint(1, 6)
        predictor, shift = chance.choice((1, 1, 2, 7, chance.randrange(9))), chance.choice((0, 0, 1))
        return lossless_jpeg(
            chance,
            width,
            height,
            chance.choice((1, 2, 3, 3, 4)),
            bits=bits,
            predictor=predictor,
            shift=shift,
            flat=flat,
        )
    if frame in DIFFERENTIAL_FRAMES:
        return hierarchical_jpeg(chance, frame, width, height, factors, expand=chance.random() < 0.5)
    if frame in ARITHMETIC_FRAMES:
        return arithmetic_jpeg(chance, frame, width, height, factors, bits=bits)
    return dct_jpeg(
        chance,
        width,
        height,
        factors,
        frame=frame,
        bits=bits,
        restart=chance.choice((0, 0, 1, 2, 7)),
        interleaved=chance.random() < 0.7,
        detail=chance.random() < 0.5,
        again=chance.choice((0, 0, 0, 3, 60)),
    )


def any_factors(chance: random.Random) -> Factors:
    """Return sampling factors of one to four components, the first mostly the finest."""
    count = chance.choice((1, 1, 2, 3, 3, 3, 3, 4))
    if chance.random() < 0.5:
        first = chance.choice(((1, 1), (2, 1), (2, 2), (1, 2), (4, 1), (1, 4), (4, 2)))
        return (first, *[(1, 1)] * (count - 1))
    return tuple((chance.randint(1, 4), chance.randint(1, 4)) for _ in range(count))
