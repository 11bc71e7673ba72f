"""TIFF files of any photometric interpretation, depth and order, written sample by sample."""

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
    """A TIFF of one strip a plane; `samples` is (H, W, samples per pixel)."""
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
    directory, behind = 8 + len(body), b""
    after = directory + 2 + 12 * len(entries) + 4
    rows = []
    for tag, (code, values) in sorted(entries.items()):
        content = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(content) > 4:
            content, behind = struct.pack(order + "I", after + len(behind)), behind + content
        rows.append(
            struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[code], len(values)) + content.ljust(4, b"\0")
        )
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", directory)
    return start + body + struct.pack(order + "H", len(rows)) + b"".join(rows) + bytes(4) + behind


def packed(samples: NDArray[np.generic], bits: int, order: str, fill_order: int) -> bytes:
    """Samples of `bits` bits each, rows padded to whole bytes."""
    if bits in (8, 16, 32, 64):
        data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    else:
        rows = samples.reshape(samples.shape[0], -1).astype(np.uint32)
        places = np.arange(bits - 1, -1, -1)
        data = np.packbits((rows[:, :, None] >> places & 1).reshape(rows.shape[0], -1), axis=1).tobytes()
    if fill_order == 2:
        data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()
    return data
