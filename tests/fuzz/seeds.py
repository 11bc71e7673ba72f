"""Seed files: small valid images of every format and variant, by Pillow and by this package's writers."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import random
import re
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from models.zoo.files import write_whole
from tests.fuzz import jpeg_files, raster_files

CACHE = Path(".cache/fuzz")
ZOO = Path("models/zoo/networks")

MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
)
MODES_16 = ("I;16", "I;16B", "I;16L", "I;16N")

Options = dict[str, Any]
_TIFF_COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd")
_OPTIONS: dict[str, list[Options]] = {
    "JPEG": [
        {},
        {"subsampling": "4:4:4", "quality": 95},
        {"subsampling": "4:2:2", "optimize": True},
        {"subsampling": "4:1:1"},
        {"progressive": True, "quality": 60},
        {"progressive": True, "subsampling": "4:4:4", "restart_marker_blocks": 3},
        {"restart_marker_rows": 1},
        {"restart_marker_blocks": 1, "comment": b"a comment"},
        {"keep_rgb": True},
        {"icc_profile": bytes(3000), "dpi": (72, 72)},
    ],
    "PNG": [
        {},
        {"optimize": True},
        {"compress_level": 0},
        {"bits": 2},
        {"transparency": 0},
        {"dpi": (72, 72)},
    ],
    "WEBP": [
        {},
        {"lossless": True},
        {"quality": 10, "alpha_quality": 20, "method": 0},
        {"exact": True, "lossless": True},
        {"icc_profile": bytes(300)},
    ],
    "GIF": [{}, {"interlace": False}, {"transparency": 0}, {"comment": b"a comment"}],
    "BMP": [{}],
    "TIFF": [*({"compression": compression} for compression in _TIFF_COMPRESSIONS), {"big_tiff": True}],
    "AVIF": [
        {"speed": 10},
        {"speed": 10, "subsampling": "4:4:4", "quality": 90},
        {"speed": 10, "subsampling": "4:2:2"},
        {"speed": 10, "subsampling": "4:0:0", "range": "limited"},
        {"speed": 10, "tile_rows": 1, "tile_cols": 1, "max_threads": 1},
    ],
}
# Modes for which libtiff accepts these; for others it prints a message on standard error.
_TIFF_FOR_MODES: dict[str, list[Options]] = {
    "1": [{"compression": compression} for compression in ("group3", "group4", "tiff_ccitt")],
    **{mode: [{"compression": "jpeg"}] for mode in ("LA", "CMYK", "YCbCr")},
    **{
        mode: [{"compression": "jpeg"}, {"compression": "tiff_lzw", "tiffinfo": {317: 2}}]
        for mode in ("L", "RGB")
    },
}
_ANIMATED: dict[str, Options] = {
    "PNG": {"default_image": True},
    "WEBP": {},
    "GIF": {"disposal": 2},
    "TIFF": {},
    "AVIF": {"speed": 10},
}
_SUFFIXES = {
    "JPEG": "jpeg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "AVIF": "avif",
}


def load_seeds() -> dict[str, bytes]:
    """Return all seeds by name, whose first word is the format; creates the cache on first use."""
    digest = hashlib.sha256("".join(version(name) for name in ("pillow", "simplejpeg", "numpy")).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    path = CACHE / f"seeds-{digest.hexdigest()[:16]}.bin"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        write_whole(path, _packed(make_seeds()))
    return _unpacked(path.read_bytes())


def _packed(seeds: dict[str, bytes]) -> bytes:
    head = json.dumps([(name, len(data)) for name, data in seeds.items()]).encode()
    return len(head).to_bytes(4) + head + b"".join(seeds.values())


def _unpacked(content: bytes) -> dict[str, bytes]:
    start = 4 + int.from_bytes(content[:4])
    seeds = {}
    for name, length in json.loads(content[4:start]):
        seeds[name] = content[start : start + length]
        start += length
    return seeds


def make_seeds() -> dict[str, bytes]:
    """Make every seed; combinations of mode and options that Pillow cannot write are skipped."""
    seeds: dict[str, bytes] = {}
    known: set[bytes] = set()
    for name, data in (*_by_pillow(), *_jpegs(), *_rasters(), *_flat()):
        if data not in known:
            known.add(data)
            seeds[name] = data
    return seeds


@functools.cache
def picture(mode: str, width: int, height: int) -> Image.Image:
    """Return a reproducible image of `mode` with a gradient, edges and some noise."""
    noise = np.random.default_rng(len(mode) + width).integers(0, 40, (height, width, 4))
    ramp = np.add.outer(np.arange(height) * 5, np.arange(width) * 3)[:, :, None] * np.array([1, 2, 3, 1])
    values = ((ramp // 2 + noise) % 256).astype(np.uint8)
    if mode in MODES_16:
        return Image.fromarray(values[:, :, 0].astype(np.uint16) * 257).convert(mode)
    if mode == "I":
        return Image.fromarray(values[:, :, 0].astype(np.int32) * 300)
    if mode == "F":
        return Image.fromarray(values[:, :, 0].astype(np.float32) / 300)
    colour = Image.fromarray(values[:, :, :3])
    if mode in ("P", "PA"):
        return colour.quantize(16, dither=Image.Dither.NONE).convert(mode)
    if mode in ("RGBa", "La"):
        return Image.fromarray(values, "RGBA").convert("LA" if mode == "La" else "RGBA").convert(mode)
    if mode == "RGBA":
        return Image.fromarray(values)
    if mode == "LA":
        return Image.fromarray(values).convert("LA")
    if mode == "LAB":
        return Image.frombytes("LAB", (width, height), values[:, :, :3].tobytes())
    return colour.convert(mode)


def _saved(image: Image.Image, kind: str, options: Options) -> bytes | None:
    buffer = io.BytesIO()
    try:
        image.copy().save(buffer, kind, **options)
    except (OSError, ValueError, KeyError, TypeError, SystemError):  # unsupported mode or option
        return None
    return _without_times(buffer.getvalue()) if kind == "AVIF" else buffer.getvalue()


def _without_times(avif: bytes) -> bytes:
    """Return an AVIF sequence with creation and modification times set to 0, for reproducibility."""
    changed = bytearray(avif)
    for box in re.finditer(b"mvhd\1|tkhd\1|mdhd\1", avif):
        changed[box.start() + 8 : box.start() + 24] = bytes(16)  # after name, version 1 and flags
    return bytes(changed)


def _by_pillow() -> Iterator[tuple[str, bytes]]:
    sizes = ((24, 16), (47, 33), (130, 90))
    for kind, choices in _OPTIONS.items():
        suffix = _SUFFIXES[kind]
        for mode in (*MODES, *MODES_16):
            more = _TIFF_FOR_MODES.get(mode, []) if kind == "TIFF" else []
            for number, options in enumerate(choices + more):
                width, height = sizes[(number + len(mode)) % 3]
                data = _saved(picture(mode, width, height), kind, options)
                if data is not None:
                    settings = " ".join(f"{key}={value!r:.12}" for key, value in options.items())
                    yield f"{suffix} {mode} {settings}", data
        for orientation in range(1, 9):
            data = _saved(
                picture("RGB", 24, 17), kind, {"exif": _exif(orientation)} | _ANIMATED.get(kind, {})
            )
            if data is not None:
                yield f"{suffix} orientation {orientation}", data
        if kind in _ANIMATED:
            for mode in ("L", "P", "RGB", "RGBA"):
                frames = [picture(mode, 40, 30).rotate(90 * turn) for turn in (1, 2)]
                options = {"save_all": True, "append_images": frames, **_ANIMATED[kind]}
                data = _saved(picture(mode, 40, 30), kind, options)
                if data is not None:
                    yield f"{suffix} {mode} animated", data


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    return exif


def _jpegs() -> Iterator[tuple[str, bytes]]:
    pixels = np.asarray(picture("RGB", 300, 220))
    for subsampling in ("444", "422", "420", "440", "411", "Gray"):
        grey = subsampling == "Gray"
        data = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels[:, :, :1] if grey else pixels),
            colorspace="Gray" if grey else "RGB",
            colorsubsampling=subsampling,
        )
        yield f"jpeg simplejpeg {subsampling}", data
        yield f"jpeg extended {subsampling}", data.replace(b"\xff\xc0", b"\xff\xc1", 1)
    chance = random.Random("jpeg seeds")
    resolutions = (
        *(
            ((1, 1),),
            ((1, 1),) * 3,
            ((2, 1), (1, 1), (1, 1)),
            ((2, 2), (1, 1), (1, 1)),
            ((1, 2), (1, 1), (1, 1)),
        ),
        *(((4, 1), (1, 1), (1, 1)), ((4, 2), (1, 1), (1, 1)), ((1, 4), (1, 1), (1, 1)), ((1, 1), (1, 1))),
        *(((2, 2), (2, 1), (1, 2)), ((1, 1), (2, 2), (1, 1)), ((3, 1), (1, 1), (1, 1)), ((1, 1),) * 4),
        *(((2, 2), (1, 1), (1, 1), (2, 2)),),
    )
    for number, factors in enumerate(resolutions):
        for frame in jpeg_files.DCT_FRAMES:
            data = jpeg_files.dct_jpeg(
                chance, 90, 70, factors, frame=frame, restart=number % 3, interleaved=number % 2 == 0
            )
            yield f"jpeg SOF{frame} {factors}", data
    for bits in (2, 8, 12, 16):
        for components in (1, 3, 4):
            data = jpeg_files.lossless_jpeg(chance, 40, 30, components, bits=bits, flat=False)
            yield f"jpeg SOF3 {components} x {bits} bits", data
        data = jpeg_files.lossless_jpeg(chance, 200, 200, bits=bits, predictor=4)
        yield f"jpeg SOF3 flat {bits} bits", data
    yield "jpeg SOF1 12 bits", jpeg_files.dct_jpeg(chance, 50, 40, resolutions[1], frame=1, bits=12)
    yield "jpeg SOF2 12 bits", jpeg_files.dct_jpeg(chance, 50, 40, resolutions[1], frame=2, bits=12)
    for frame in jpeg_files.DIFFERENTIAL_FRAMES:
        yield f"jpeg SOF{frame}", jpeg_files.hierarchical_jpeg(chance, frame, 48, 32, resolutions[3])
    for frame in jpeg_files.ARITHMETIC_FRAMES:
        for factors in (resolutions[0], resolutions[3]):
            yield f"jpeg SOF{frame} {factors}", jpeg_files.arithmetic_jpeg(chance, frame, 80, 60, factors)
    photo = _saved(picture("RGB", 64, 48), "JPEG", {}) or b""
    for kind in (1, 3, 4, 6, 8, 9):
        for order in "<>":
            block = jpeg_files.segment(0xE1, b"Exif\0\0" + raster_files.exif(chance, 6, kind, order))
            yield f"jpeg orientation of type {kind}{order}", photo[:2] + block + photo[2:]
    one, two = (jpeg_files.segment(0xE1, b"Exif\0\0" + raster_files.exif(chance, turn)) for turn in (3, 6))
    yield "jpeg two EXIF segments", photo[:2] + one + two + photo[2:]


def _rasters() -> Iterator[tuple[str, bytes]]:
    chance = random.Random("raster seeds")
    for colour, depths in raster_files.PNG_DEPTHS.items():
        for depth in depths:
            for interlaced in (False, True):
                data = raster_files.png(chance, 29, 21, depth, colour, interlaced=interlaced)
                yield f"png colour {colour} depth {depth} {interlaced=}", data
    for header in raster_files.BMP_HEADERS:
        for bits in (1, 4, 8, 16, 24, 32):
            data = raster_files.bmp(chance, 27, 19, bits, header=header, top_down=bits == 24)
            yield f"bmp header {header} of {bits} bits", data
    for bits, compression in ((8, 1), (4, 2), (16, 3), (32, 3), (32, 6)):
        data = raster_files.bmp(chance, 27, 19, bits, header=40, compression=compression)
        yield f"bmp compression {compression} of {bits} bits", data
    for samples, bits in ((1, 1), (1, 4), (1, 8), (1, 16), (1, 32), (2, 8), (3, 8), (3, 16), (4, 8), (4, 16)):
        layouts: list[dict[str, Any]] = [{}, {"tile": 16}, {"planar": True}, {"order": ">"}]
        if bits in (8, 16):
            layouts.append({"deflate": True, "predictor": 2})
        for layout in layouts:
            data = raster_files.tiff(chance, 37, 35, samples=samples, bits=bits, **layout)
            yield f"tiff {samples} x {bits} bits {layout}", data
    others: dict[str, dict[str, Any]] = {
        "palette": {"samples": 1, "photometric": 3},
        "float": {"samples": 1, "bits": 32, "sample_format": 3},
        "white is 0": {"samples": 1, "photometric": 0},
        "white is 0 of 16 bits": {"samples": 1, "bits": 16, "photometric": 0},
        "12 bits": {"samples": 1, "bits": 12},
        "signed 8 bits": {"samples": 1, "sample_format": 2},
        "signed 16 bits": {"samples": 1, "bits": 16, "sample_format": 2},
        "signed 32 bits": {"samples": 1, "bits": 32, "sample_format": 2},
        "subsampled": {"photometric": 6, "more": [(530, 3, [2, 2])]},
        "inks": {"samples": 4, "photometric": 5, "more": [(332, 3, [2])]},
        **{f"orientation of type {kind}": {"more": [(274, kind, [6])]} for kind in (1, 3, 4, 8, 9)},
    }
    for name, options in others.items():
        yield f"tiff {name}", raster_files.tiff(chance, 37, 35, **options)


def _flat() -> Iterator[tuple[str, bytes]]:
    """Yield images with many pixels in few bytes, to test time and memory per declared pixel."""
    chance = random.Random("flat seeds")
    for kind, options in (
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 1}),
        ("GIF", {}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("AVIF", {"speed": 10, "quality": 1}),
        ("JPEG", {"quality": 1, "optimize": True}),
        ("JPEG", {"quality": 1, "progressive": True}),
    ):
        for mode in ("1", "RGB", "RGBA", "I;16"):
            data = _saved(Image.new(mode, (900, 700)), kind, options)
            if data is not None:
                yield f"{_SUFFIXES[kind]} flat {mode} {options}", data
    fax = _saved(Image.new("1", (900, 700)), "TIFF", {"compression": "group4"})
    yield "tiff flat group4", fax or b""
    yield "jpeg flat SOF3", jpeg_files.lossless_jpeg(chance, 900, 700)
    blank = raster_files.png(chance, 1, 1, 8, 0)[:8]
    rows = zlib.compress(bytes(700 * (1 + 900 * 8)), 9)
    header = raster_files.png_chunk(b"IHDR", (900).to_bytes(4) + (700).to_bytes(4) + bytes([16, 6, 0, 0, 0]))
    yield (
        "png flat 16",
        blank + header + raster_files.png_chunk(b"IDAT", rows) + raster_files.png_chunk(b"IEND", b""),
    )
    for bits in (32, 16):
        data = raster_files.tiff(chance, 900, 700, samples=1, bits=bits, deflate=True, blank=True)
        yield f"tiff flat {bits}", data
