"""Handle JPEGs that libjpeg warns of: refuse damaged files, and repair faults that change no pixel."""

from __future__ import annotations

import contextlib
import io
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from service.inference.decoding.jpeg import (
    END_OF_IMAGE,
    FRAMES,
    MAX_SCANS,
    PROGRESSIVE,
    START_OF_SCAN,
    JpegHeader,
    Segment,
    decode_strictly,
    ends_of_coded_data,
    segments,
)

_ARITHMETIC = frozenset({0xC9, 0xCA})
_APP0, _APP14, _APP15, _COMMENT = 0xE0, 0xEE, 0xEF, 0xFE
_MAX_SCAN_COMPONENTS = 4
_SEQUENTIAL_SCAN = b"\x00\x3f\x00"
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_ADOBE = b"Adobe"
_ADOBE_BYTES = 12
# Adobe's colour transforms by number of components: (the defined ones, the one libjpeg uses for any other).
_TRANSFORMS = {3: ((0, 1), 1), 4: ((0, 2), 2)}

_PADDING = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_MAX_ATTEMPTS = 12
_MAX_VARIED_PADDING = 16
_BLOCK = 64


class DamagedJpeg(ValueError):
    """The JPEG has missing or wrong pixels, or no available decoder reads it."""


def repaired_pixels(data: bytes, header: JpegHeader, scale: int) -> NDArray[np.uint8]:
    """Decode a JPEG for which `decode_strictly` raised a warning.

    The arguments and the returned array are those of `decode_strictly`.

    libjpeg warns of faults that cost pixels, such as a bad code or truncated coded data. It also warns of
    faults that cost none: a missing end marker, an odd JFIF version, scan parameters that a sequential JPEG
    does not use, a broken colour profile, padding, a repeated scan. It reports only the first fault. So the
    parts of the file that change no pixel are removed, and the file is decoded again. If libjpeg still warns,
    the file counts as damaged.

    Raises DamagedJpeg, MemoryError.
    """
    repaired = _normalised(data, header)
    places: Iterator[tuple[int, int]] = iter(())
    base, done = repaired, 0
    for _ in range(_MAX_ATTEMPTS):
        try:
            return decode_strictly(repaired, header, scale)
        except ValueError as error:
            warning = str(error)
        if "subsampling" in warning:
            # TurboJPEG's API has no name for this subsampling; Pillow decodes it and detects truncation.
            return _with_pillow(data, header, scale)
        if _PADDING.search(warning):
            if not done:  # usually all scans have the same padding
                with contextlib.suppress(ValueError):
                    return decode_strictly(_without_zero_padding(repaired), header, scale)
            # the warning is now about a later place, so the removed bytes were padding
            base, places = repaired, _find_padding(repaired, done, warning)
        start, done = next(places, (-1, -1))
        if done < 0:
            break
        repaired, done = base[:start] + base[done:], start
    raise DamagedJpeg("coded data are damaged")


def _with_pillow(data: bytes, header: JpegHeader, scale: int) -> NDArray[np.uint8]:
    try:
        image = JpegImageFile(io.BytesIO(data))
        if image.size != (header.width, header.height):
            raise DamagedJpeg(f"Pillow reads a size of {image.size}")
        # Pillow rounds the ratio of the sizes down to a power of two.
        image.draft(None, (max(1, header.width // scale), max(1, header.height // scale)))
        image.load()
        return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises nearly any exception type for malformed bytes
        raise DamagedJpeg(str(error)) from None


def _normalised(data: bytes, header: JpegHeader) -> bytes:
    """Copy the segments of `data` that pixels depend on, and append an end marker.

    Omits repeated scans, and sets scan parameters to the values that libjpeg assumes. Raises DamagedJpeg if
    the end marker is missing and the scans are incomplete.
    """
    pieces = [b"\xff\xd8"]
    coefficients = _Coefficients(header.frame in PROGRESSIVE)
    arithmetic = header.frame in _ARITHMETIC
    ends = ends_of_coded_data(data, header.first_scan)
    position, ended = 2, False
    for _ in range(MAX_SCANS + 1):
        scan: Segment | None = None
        repeated = False
        for segment in segments(data, position, after_scan=position > 2):
            if segment.end > len(data):
                break
            content = data[segment.start : segment.end]
            if segment.marker == END_OF_IMAGE:
                ended = True
            elif segment.marker == START_OF_SCAN:
                scan = segment
                repeated = not coefficients.add(content)
                if repeated:
                    continue
                if header.frame not in PROGRESSIVE:
                    content = content[:-3] + _SEQUENTIAL_SCAN
            elif segment.marker in FRAMES:
                coefficients.expect(content)
            pieces.append(_normalised_segment(segment.marker, content, header))
        if scan is None:
            break
        index = int(np.searchsorted(ends, scan.end))
        position = int(ends[index]) if index < len(ends) else len(data)
        if not repeated:
            pieces.append(data[scan.end : position].rstrip(b"\xff"))
    else:
        raise DamagedJpeg(f"more than {MAX_SCANS} scans")
    # The arithmetic decoder does not detect truncated coded data.
    if not ended and (arithmetic or not coefficients.complete):
        raise DamagedJpeg("end marker missing, scans possibly too")
    return b"".join([*pieces, b"\xff\xd9"])


def _normalised_segment(marker: int, content: bytes, header: JpegHeader) -> bytes:
    """Return the segment in the form that libjpeg accepts, or no bytes if no pixel depends on it."""
    if marker == _APP0 and content.startswith(b"JFIF\0") and len(content) >= 14:
        return _JFIF
    if marker == _APP14 and content.startswith(_ADOBE) and len(content) >= _ADOBE_BYTES:
        known, assumed = _TRANSFORMS.get(header.components, ((), content[11]))
        transform = content[11] if content[11] in known else assumed
        content = content[:11] + bytes([transform])
    elif _APP0 <= marker <= _APP15 or marker in (_COMMENT, END_OF_IMAGE):
        return b""
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content


class _Coefficients:
    """Record of the coefficients that the scans have delivered so far, by component and precision."""

    def __init__(self, progressive: bool) -> None:
        self._progressive = progressive
        self._components: set[int] = set()
        self._bits_missing: defaultdict[int, list[int]] = defaultdict(lambda: [-1] * _BLOCK)

    def expect(self, frame: bytes) -> None:
        """Set the components from the content of a frame header."""
        self._components = set(frame[6::3])

    def add(self, scan: bytes) -> bool:
        """Record which coefficients a scan delivers. Return False if the scan repeats earlier coefficients.

        `scan`: content of the scan's header. The header has the number of components, the id and tables of
        each component, and three parameters.
        """
        if not scan or scan[0] > _MAX_SCAN_COMPONENTS or len(scan) != 1 + 2 * scan[0] + 3:
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
    def complete(self) -> bool:
        """Whether all coefficients have arrived at full precision."""
        return all(not any(self._bits_missing[component]) for component in self._components)


def _without_zero_padding(data: bytes) -> bytes:
    """Strip zeros from the end of each scan's coded data. A zero after FF is part of the data and stays."""
    pieces, position = [], 0
    for end in ends_of_coded_data(data, data.find(b"\xff\xda")).tolist():
        stripped = data[position:end].rstrip(b"\0")
        pieces.append(stripped + b"\0" if stripped.endswith(b"\xff") else stripped)
        position = end
    return b"".join([*pieces, data[position:]])


def _find_padding(data: bytes, position: int, warning: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each place after `position` that may be the padding that `warning` reports.

    The bytes at a place count as padding if all have the same value, or if there are only a few of them.
    Otherwise, they may be coded data: if these are damaged, the decoder may stop before their end and report
    the rest as extraneous.
    """
    match = _PADDING.search(warning)
    assert match is not None
    count, marker = int(match[1]), int(match[2], 16)
    for end in ends_of_coded_data(data, max(position, data.find(b"\xff\xda"))):
        padding = data[max(0, int(end) - count) : int(end)]
        is_padding = len(padding) == count and (len(set(padding)) == 1 or count <= _MAX_VARIED_PADDING)
        if is_padding and data[end + 1] == marker:
            yield int(end) - count, int(end)
