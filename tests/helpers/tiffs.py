"""TIFF files of any photometric interpretation, bit depth and byte order."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def tiff(
    samples: NDArray[np.generic],
    *,
    photometric: int,
    bits: int,
    order: str = "<",
    fill_order: int = 1,
    planar: int = 1,
    sample_format: int = UNSIGNED,
    extra_samples: Sequence[int] = (),
    tags: dict[int, Sequence[int]] | None = None,
    deflate: bool = False,
) -> bytes:
    """Return a TIFF with one strip per plane; `samples` is (H, W, samples per pixel)."""
    height, width, count = samples.shape
    planes = [samples] if planar == 1 else [samples[:, :, [index]] for index in range(count)]
    strips = [packed(plane, bits, order, fill_order) for plane in planes]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    offsets = [8 + sum(map(len, strips[:index])) for index in range(len(strips))]
    entries: dict[int, tuple[str, Sequence[int]]] = {
        256: ("H", [width]),
        257: ("H", [height]),
        258: ("H", [bits] * count),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [photometric]),
        266: ("H", [fill_order]),
        273: ("I", offsets),
        277: ("H", [count]),
        278: ("H", [height]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [planar]),
        339: ("H", [sample_format] * count),
    }
    if extra_samples:
        entries[338] = ("H", extra_samples)
    entries |= {tag: ("H", values) for tag, values in (tags or {}).items()}
    body = b"".join(strips)
    body += bytes(-len(body) % 2)
    directory, long_values = 8 + len(body), b""
    values_offset = directory + 2 + 12 * len(entries) + 4
    rows = []
    for tag, (code, values) in sorted(entries.items()):
        content = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(content) > 4:
            offset = struct.pack(order + "I", values_offset + len(long_values))
            content, long_values = offset, long_values + content
        rows.append(
            struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[code], len(values)) + content.ljust(4, b"\0")
        )
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", directory)
    return start + body + struct.pack(order + "H", len(rows)) + b"".join(rows) + bytes(4) + long_values


def packed(samples: NDArray[np.generic], bits: int, order: str, fill_order: int) -> bytes:
    """Pack samples of `bits` bits each, with rows padded to whole bytes."""
    if bits in (8, 16, 32, 64):
        data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    else:
        rows = samples.reshape(samples.shape[0], -1).astype(np.uint32)
        shifts = np.arange(bits - 1, -1, -1)
        data = np.packbits((rows[:, :, None] >> shifts & 1).reshape(rows.shape[0], -1), axis=1).tobytes()
    if fill_order == 2:
        data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()
    return data
