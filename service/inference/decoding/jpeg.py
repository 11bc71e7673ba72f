"""JPEG: read its header, size, EXIF orientation and scans (ITU-T T.81, annex B), and decode it at a scale."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from service.errors import UndecodableImage
from service.inference.decoding.rgb import exif_orientation

EXIF = b"Exif\0\0"
APP1 = 0xE1
START_OF_SCAN = 0xDA
START_OF_IMAGE = 0xD8
END_OF_IMAGE = 0xD9

# Frame headers are C0 to CF except these three (Huffman tables, reserved, arithmetic conditioning).
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset({0xC2, 0xCA})
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})

# libjpeg-turbo scales only frames with a discrete cosine transform: baseline, extended and progressive, with
# Huffman or arithmetic codes. A lossless frame (C3) has no such transform: libjpeg-turbo before 3.1.4 ignores
# the scale and writes the full-size pixels into the smaller buffer. It does not decode hierarchical frames.
_DECODED_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_FRAME_KINDS = {0xC3: "lossless", 0xCB: "lossless"}

# A marker is FF and a second byte. FFs between the two are fill bytes. FF 00 is not a marker.
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_PARAMETERLESS = re.compile(rb"(?:\xff+[\x01\xd0-\xd7])*")

# Cameras and editors write far fewer segments, and a body with this many does not keep a core busy.
_MAX_SEGMENTS = 4096
MAX_SCANS = 100


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """The frame header of a JPEG and its EXIF orientation.

    `width` and `height` are as stored, before the orientation is applied. `orientation` is 1 to 8. `frame` is
    the marker of the frame header, C0 to CF. `first_scan` is the offset of the first scan's marker.
    """

    width: int
    height: int
    components: int
    bits: int
    orientation: int
    frame: int
    first_scan: int


class Segment(NamedTuple):
    """A segment of a JPEG file: its marker, and its content `data[start:end]`.

    `at` is the offset of the byte FF before the marker.
    """

    marker: int
    at: int
    start: int
    end: int


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Read the segments of a JPEG up to its first scan. Takes microseconds for any image size.

    Raises UndecodableImage if the frame is lossless or hierarchical, if a side has 0 pixels, if there are too
    many segments or scans, or if the first scan is not preceded by exactly one complete frame header.
    """
    exif: list[bytes] = []
    frame: tuple[int, int, int, int] | None = None
    frame_marker = 0
    first_scan = len(data)
    for segment in segments(data, 2):
        marker = segment.marker
        if marker == START_OF_SCAN:
            first_scan = segment.at
        elif marker in FRAMES:
            if frame is not None:
                raise UndecodableImage("JPEG: two frame headers")
            if segment.start + 6 > len(data) or segment.end - segment.start < 6:
                break
            frame = struct.unpack_from(">BHHB", data, segment.start)
            frame_marker = marker
        elif marker == APP1 and data.startswith(EXIF, segment.start):
            # An EXIF block over 64 KB continues in further segments, each with the same signature.
            exif.append(data[segment.start + len(EXIF) : segment.end])
    if frame is None:
        raise UndecodableImage(f"JPEG: truncated before its frame header (given: {len(data)} bytes)")
    if frame_marker not in _DECODED_FRAMES:
        kind = _FRAME_KINDS.get(frame_marker, "hierarchical")
        raise UndecodableImage(
            f"JPEG: {kind} frames are unsupported (given: SOF{frame_marker - 0xC0}; "
            "allowed: baseline, extended, progressive)"
        )
    bits, height, width, components = frame
    if not width or not height:
        raise UndecodableImage(f"JPEG: {width} x {height} pixels (allowed: at least 1 x 1)")
    # Each scan costs a pass over the image, so their number is limited. A sequential JPEG whose first scan
    # has all components has no other scan.
    if frame_marker in PROGRESSIVE or data[first_scan + 4 : first_scan + 5] != bytes([components]):
        scans = (segment for segment in scan_segments(data, first_scan) if segment.marker == START_OF_SCAN)
        if next(itertools.islice(scans, MAX_SCANS, None), None) is not None:
            raise UndecodableImage(f"JPEG: more than {MAX_SCANS} scans")
    orientation = exif_orientation(b"".join(exif)) if exif else 1
    return JpegHeader(width, height, components, bits, orientation, frame_marker, first_scan)


def decode_strictly(data: bytes, header: JpegHeader, scale: int) -> NDArray[np.uint8]:
    """Decode `data` at 1/`scale` (1, 2, 4 or 8), without applying the orientation.

    Returns uint8 RGB (ceil(H / scale), ceil(W / scale), 3). Raises ValueError at the first warning of
    libjpeg-turbo, and MemoryError if there is too little memory.
    """
    # The library takes the smallest of its scales that reaches both minimums; 0 means unscaled.
    rows, columns = (0, 0) if scale == 1 else (-(-header.height // scale), -(-header.width // scale))
    is_cmyk = header.components == 4
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, "CMYK" if is_cmyk else "RGB", min_height=rows, min_width=columns, strict=True
    )
    if not is_cmyk:
        return pixels
    # Adobe's convention, which all writers follow: 255 means no ink.
    size = (pixels.shape[1], pixels.shape[0])
    return np.asarray(Image.frombuffer("CMYK", size, pixels, "raw", "CMYK;I", 0, 1).convert("RGB"))


def segments(data: bytes, position: int, *, after_scan: bool = False) -> Iterator[Segment]:
    """Yield the segments from `position` up to and including the next start of a scan or end of image.

    Skips fill bytes, stray bytes and markers without a length, as libjpeg does. Stops before a marker whose
    length is truncated. The content of the last segment may be truncated. With `after_scan`, also stops
    before the start of another image. Raises UndecodableImage for more than 4096 segments.
    """
    for _ in range(_MAX_SEGMENTS):
        run = _PARAMETERLESS.match(data, position)
        at = data.find(b"\xff", position if run is None else run.end())
        if at < 0:
            return
        if data[at + 1 : at + 2] in (b"\0", b"\xff", b""):
            next_marker = _MARKER.search(data, at)
            if next_marker is None:
                return
            at = next_marker.start()
        marker = data[at + 1]
        if marker == START_OF_IMAGE and after_scan:
            return
        if marker in WITHOUT_LENGTH:
            position = at + 2
            continue
        if marker == END_OF_IMAGE:
            yield Segment(marker, at, at + 2, at + 2)
            return
        if at + 4 > len(data):
            return
        start = at + 4
        end = start + max(0, int.from_bytes(data[at + 2 : start]) - 2)
        yield Segment(marker, at, start, end)
        if marker == START_OF_SCAN:
            return
        position = end
    raise UndecodableImage(f"JPEG: more than {_MAX_SEGMENTS} segments before a scan")


def scan_segments(data: bytes, first_scan: int) -> Iterator[Segment]:
    """Yield the segments from the first scan's header to the end of the image, without coded data.

    Does not read what follows the image in the file, such as a video or a second image.
    """
    position = first_scan
    ends = ends_of_coded_data(data, first_scan)
    while True:
        scan: Segment | None = None
        for segment in segments(data, position, after_scan=position > first_scan):
            yield segment
            scan = segment if segment.marker == START_OF_SCAN else None
        if scan is None:
            return
        index = int(np.searchsorted(ends, scan.end))
        if index == len(ends):
            return
        position = int(ends[index])


def ends_of_coded_data(data: bytes, position: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the offset of each FF, from `position` on, that starts a marker other than a restart marker.

    Inside coded data, only 00 or a restart marker follows FF. So the first of these offsets after a scan's
    header is the end of the scan's coded data.
    """
    values = np.frombuffer(data, np.uint8)[position:]
    following = values[1:]
    marker = (values[:-1] == 0xFF) & (following != 0x00) & (following != 0xFF)
    marker &= (following < 0xD0) | (following > 0xD7)
    return np.flatnonzero(marker) + position
