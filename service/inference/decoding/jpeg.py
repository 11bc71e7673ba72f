"""The pixels of a JPEG at a scale, with damage refused and harmless oddities of real files repaired."""

from __future__ import annotations

import contextlib
import io
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from service.inference.decoding.jpeg_header import (
    END_OF_IMAGE,
    FRAMES,
    MOST_SCANS,
    PROGRESSIVE,
    START_OF_SCAN,
    JpegHeader,
    Segment,
    ends_of_coded_data,
    segments,
)

_ARITHMETIC = frozenset({0xC9, 0xCA})
_APP0, _APP14, _APP15, _COMMENT = 0xE0, 0xEE, 0xEF, 0xFE
_MOST_COMPONENTS = 4
"""Of a scan."""
_SEQUENTIAL_SCAN = b"\x00\x3f\x00"
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_ADOBE = b"Adobe"
_ADOBE_BYTES = 12
# Adobe's colour transforms by number of components: those that exist, and the one that libjpeg takes instead.
_TRANSFORMS = {3: ((0, 1), 1), 4: ((0, 2), 2)}

_PADDING = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_MOST_TRIES = 12
_FEW_BYTES = 16
_BLOCK = 64


class DamagedJpeg(ValueError):
    """Pixels are missing or wrong, or no decoder here reads the file."""


def jpeg_pixels(data: bytes, header: JpegHeader, scale: int) -> NDArray[np.uint8]:
    """Decode `data` at 1/`scale` (1, 2, 4 or 8): uint8 RGB (ceil(H / scale), ceil(W / scale), 3), as stored.

    libjpeg warns of two kinds of faults: those that cost pixels (a bad code, coded data that end early), and
    those that do not (a missing end marker, an odd JFIF version, scan parameters that a sequential JPEG does
    not use, a broken colour profile, padding, a scan that repeats another). It reports only the first
    warning. So a file that it warns of is decoded again without whatever in it changes no pixel; a warning
    that is left is damage.

    Raises DamagedJpeg, MemoryError.
    """
    try:
        return _strict(data, header, scale)
    except ValueError:
        repaired = _without_oddities(data, header)
    places: Iterator[tuple[int, int]] = iter(())
    base, done = repaired, 0
    for _ in range(_MOST_TRIES):
        try:
            return _strict(repaired, header, scale)
        except ValueError as error:
            warning = str(error)
        if "subsampling" in warning:
            # TurboJPEG's interface has no name for it; libjpeg reads it. Pillow finds a cut file by itself.
            return _with_pillow(data, header, scale)
        if _PADDING.search(warning):
            if not done:  # most likely it is the same everywhere
                with contextlib.suppress(ValueError):
                    return _strict(_without_zeros(repaired), header, scale)
            # at a later place than the one before, which was padding
            base, places = repaired, _padded(repaired, done, warning)
        start, done = next(places, (-1, -1))
        if done < 0:
            break
        repaired, done = base[:start] + base[done:], start
    raise DamagedJpeg("coded data are damaged")


def _strict(data: bytes, header: JpegHeader, scale: int) -> NDArray[np.uint8]:
    return _turbo(data, header, scale, strict=True)


def _turbo(data: bytes, header: JpegHeader, scale: int, *, strict: bool) -> NDArray[np.uint8]:
    # The library takes the smallest of its scales that reaches both minimums; 0 means unscaled.
    rows, columns = (0, 0) if scale == 1 else (-(-header.height // scale), -(-header.width // scale))
    ink = header.components == 4
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, "CMYK" if ink else "RGB", min_height=rows, min_width=columns, strict=strict
    )
    if not ink:
        return pixels
    # Adobe's convention, which all writers follow: 255 is no ink.
    size = (pixels.shape[1], pixels.shape[0])
    return np.asarray(Image.frombuffer("CMYK", size, pixels, "raw", "CMYK;I", 0, 1).convert("RGB"))


def _with_pillow(data: bytes, header: JpegHeader, scale: int) -> NDArray[np.uint8]:
    try:
        image = JpegImageFile(io.BytesIO(data))
        if image.size != (header.width, header.height):
            raise DamagedJpeg(f"Pillow reads a size of {image.size}")
        # The scale is what the sizes' ratio, rounded down to a power of two, comes to.
        image.draft(None, (max(1, header.width // scale), max(1, header.height // scale)))
        image.load()
        return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises nearly any type for malformed bytes
        raise DamagedJpeg(str(error)) from None


def _without_oddities(data: bytes, header: JpegHeader) -> bytes:
    """Copy the segments of `data` that pixels depend on, with an end marker.

    Scan parameters become those that libjpeg assumes, and scans that repeat others are left out. DamagedJpeg
    when the end marker is missing and scans are missing before it.
    """
    pieces = [b"\xff\xd8"]
    received = _Received(header.frame in PROGRESSIVE)
    arithmetic = header.frame in _ARITHMETIC
    ends = ends_of_coded_data(data, header.first_scan)
    position, ended = 2, False
    for _ in range(MOST_SCANS + 1):
        scan: Segment | None = None
        again = False
        for segment in segments(data, position, after_scan=position > 2):
            if segment.end > len(data):
                break
            content = data[segment.start : segment.end]
            if segment.marker == END_OF_IMAGE:
                ended = True
            elif segment.marker == START_OF_SCAN:
                scan = segment
                again = not received.add(content)
                if again:
                    continue
                if header.frame not in PROGRESSIVE:
                    content = content[:-3] + _SEQUENTIAL_SCAN
            elif segment.marker in FRAMES:
                received.expect(content)
            pieces.append(_needed(segment.marker, content, header))
        if scan is None:
            break
        after = int(np.searchsorted(ends, scan.end))
        position = int(ends[after]) if after < len(ends) else len(data)
        if not again:
            pieces.append(data[scan.end : position].rstrip(b"\xff"))
    else:
        raise DamagedJpeg(f"more than {MOST_SCANS} scans")
    # The decoder of arithmetic codes does not notice that coded data end early.
    if not ended and (arithmetic or not received.all):
        raise DamagedJpeg("the end marker is missing, and scans before it may be")
    return b"".join([*pieces, b"\xff\xd9"])


def _needed(marker: int, content: bytes, header: JpegHeader) -> bytes:
    """The segment as pixels depend on it; empty where they do not."""
    if marker == _APP0 and content.startswith(b"JFIF\0") and len(content) >= 14:
        return _JFIF
    if marker == _APP14 and content.startswith(_ADOBE) and len(content) >= _ADOBE_BYTES:
        known, assumed = _TRANSFORMS.get(header.components, ((), content[11]))
        transform = content[11] if content[11] in known else assumed
        content = content[:11] + bytes([transform])
    elif _APP0 <= marker <= _APP15 or marker in (_COMMENT, END_OF_IMAGE):
        return b""
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content


class _Received:
    """Which coefficients of which components the scans have brought to full precision."""

    def __init__(self, progressive: bool) -> None:
        self._progressive = progressive
        self._components: set[int] = set()
        self._bits_missing: defaultdict[int, list[int]] = defaultdict(lambda: [-1] * _BLOCK)

    def expect(self, frame: bytes) -> None:
        """Take the components of a frame header's content."""
        self._components = set(frame[6::3])

    def add(self, scan: bytes) -> bool:
        """Take a scan header's content: number of components, each with its tables, then three parameters.

        Returns whether the scan brings anything: False where it does not go on from what came before.
        """
        if not scan or scan[0] > _MOST_COMPONENTS or len(scan) != 1 + 2 * scan[0] + 3:
            return True  # libjpeg refuses it
        first, last, precision = scan[-3:] if self._progressive else _SEQUENTIAL_SCAN
        span = range(first, min(last, _BLOCK - 1) + 1)
        before = precision >> 4 or -1
        missing = [self._bits_missing[component] for component in scan[1:-3:2]]
        if self._progressive and any(bits[place] != before for bits in missing for place in span):
            return False
        for bits in missing:
            for place in span:
                bits[place] = precision & 15
        return True

    @property
    def all(self) -> bool:
        """Whether nothing is missing."""
        return all(not any(self._bits_missing[component]) for component in self._components)


def _without_zeros(data: bytes) -> bytes:
    """`data` without zeros at the end of coded data, but for one behind FF, which belongs to it."""
    pieces, position = [], 0
    for end in ends_of_coded_data(data, data.find(b"\xff\xda")).tolist():
        kept = data[position:end].rstrip(b"\0")
        pieces.append(kept + b"\0" if kept.endswith(b"\xff") else kept)
        position = end
    return b"".join([*pieces, data[position:]])


def _padded(data: bytes, position: int, warning: str) -> Iterator[tuple[int, int]]:
    """Where, behind `position`, the padding before a marker that `warning` is about may begin and end.

    Padding is one value over and over, or a few bytes. Where coded data were damaged, the decoder may be done
    before they end: then what is left are coded data.
    """
    found = _PADDING.search(warning)
    assert found is not None
    count, marker = int(found[1]), int(found[2], 16)
    for end in ends_of_coded_data(data, max(position, data.find(b"\xff\xda"))):
        padding = data[max(0, int(end) - count) : int(end)]
        plain = len(padding) == count and (len(set(padding)) == 1 or count <= _FEW_BYTES)
        if plain and data[end + 1] == marker:
            yield int(end) - count, int(end)
