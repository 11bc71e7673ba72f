"""Structure-aware mutations of JPEG files: segments, headers, tables and scans."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.fuzz import jpeg_files, raster_files
from tests.fuzz.values import any_number, change_number


class Segment:
    """A marker, its payload (None for markers without one) and the entropy-coded data after it."""

    def __init__(self, marker: int, payload: bytes | None, coded: bytes = b"") -> None:
        self.marker, self.payload, self.coded = marker, payload, coded
        self.length: int | None = None

    def __bytes__(self) -> bytes:
        head = bytes([0xFF, self.marker])
        if self.payload is None:
            return head + self.coded
        length = len(self.payload) + 2 if self.length is None else self.length
        return head + struct.pack(">H", length & 0xFFFF) + self.payload + self.coded


def jpeg_segments(data: bytes) -> list[Segment]:
    """Split a JPEG at its markers, restart markers included."""
    segments: list[Segment] = []
    at = 0
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 1:
        marker = data[at + 1]
        if marker in (0, 0xFF):
            at += 1
            continue
        payload: bytes | None = None
        start = end = at + 2
        if marker not in (0x01, *range(0xD0, 0xDA)):
            end = start + max(2, int.from_bytes(data[start : start + 2]))
            payload = data[start + 2 : end]
        following = _next_marker(data, end)
        segments.append(Segment(marker, payload, data[end:following]))
        at = following
    return segments


def _next_marker(data: bytes, at: int) -> int:
    """Return the offset of the next FF that is neither escaped nor a fill byte, or the data's length."""
    while (at := data.find(b"\xff", at)) >= 0:
        if data[at + 1 : at + 2] not in (b"\0", b"\xff"):
            return at
        at += 1
    return len(data)


def mutate_jpeg(chance: random.Random, data: bytes) -> bytes:
    """Change markers, lengths, frame and scan headers, tables; move, repeat, drop and add segments."""
    segments = jpeg_segments(data)
    if not segments:
        return data
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(_JPEG_CHANGES)(chance, segments)
    return b"".join(bytes(segment) for segment in segments)


def _of_markers(chance: random.Random, segments: list[Segment], markers: set[int]) -> Segment | None:
    fitting = [segment for segment in segments if segment.marker in markers and segment.payload]
    return chance.choice(fitting) if fitting else None


_FRAME_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xDE}


def _change_frame_type(chance: random.Random, segments: list[Segment]) -> None:
    if frame := _of_markers(chance, segments, _FRAME_MARKERS):
        frame.marker = chance.choice((*range(0xC0, 0xD0), 0xDE))


def _change_frame(chance: random.Random, segments: list[Segment]) -> None:
    """Change precision, height, width, the number of components or a component's id, sampling or table."""
    if not (frame := _of_markers(chance, segments, _FRAME_MARKERS)):
        return
    payload = bytearray(frame.payload or b"")
    field = chance.choice(("bits", "height", "width", "count", "component", "component", "sampling"))
    if field == "bits":
        change_number(chance, payload, 0, 1, "big")
    elif field in ("height", "width"):
        change_number(chance, payload, 1 if field == "height" else 3, 2, "big")
    elif field == "count" and len(payload) > 5:
        count = chance.choice((0, 1, 2, 3, 4, 5, 255))
        payload[5] = count
        if chance.random() < 0.7:  # as many components as announced
            payload[6:] = b"".join(bytes([i & 255, 0x11, 0]) for i in range(1, count + 1))
    elif field == "component" and len(payload) > 6:
        change_number(chance, payload, chance.randrange(6, len(payload)), 1, "big")
    elif len(payload) > 8:
        at = 7 + 3 * chance.randrange((len(payload) - 6) // 3)
        payload[at] = chance.randint(1, 4) << 4 | chance.randint(1, 4)
    frame.payload = bytes(payload)


def _change_scan(chance: random.Random, segments: list[Segment]) -> None:
    if scan := _of_markers(chance, segments, {0xDA}):
        payload = bytearray(scan.payload or b"")
        change_number(chance, payload, chance.randrange(len(payload)), 1, "big")
        scan.payload = bytes(payload)


def _change_table(chance: random.Random, segments: list[Segment]) -> None:
    if table := _of_markers(chance, segments, {0xC4, 0xCC, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE}):
        payload = bytearray(table.payload or b"")
        for _ in range(chance.choice((1, 1, 3))):
            change_number(chance, payload, chance.randrange(min(len(payload), 64)), 1, "big")
        table.payload = bytes(payload)


def _change_length(chance: random.Random, segments: list[Segment]) -> None:
    segment = chance.choice(segments)
    if segment.payload is not None:
        segment.length = any_number(chance, 16, len(segment.payload) + 2)


def _change_marker(chance: random.Random, segments: list[Segment]) -> None:
    chance.choice(segments).marker = chance.choice((0x01, *range(0xBF, 0x100)))


def _repeat(chance: random.Random, segments: list[Segment]) -> None:
    at = chance.randrange(len(segments))
    copies = chance.choice((1, 1, 2, 120)) if len(segments[at].coded) < 2000 else 1
    if len(bytes(segments[at])) < 20 and chance.random() < 0.1:
        copies = 5000
    segments[chance.randint(0, len(segments)) : 0] = [segments[at]] * copies


def _repeat_scans(chance: random.Random, segments: list[Segment]) -> None:
    if (scan := _of_markers(chance, segments, {0xDA})) and len(scan.coded) < 3000:
        at = segments.index(scan)
        segments[at:at] = [scan] * chance.choice((1, 5, 60, 99))


def _drop(chance: random.Random, segments: list[Segment]) -> None:
    if len(segments) > 1:
        del segments[chance.randrange(len(segments))]


def _swap(chance: random.Random, segments: list[Segment]) -> None:
    a, b = chance.randrange(len(segments)), chance.randrange(len(segments))
    segments[a], segments[b] = segments[b], segments[a]


def _cut_coded(chance: random.Random, segments: list[Segment]) -> None:
    coded = [segment for segment in segments if segment.coded]
    if coded:
        segment = chance.choice(coded)
        at = chance.randrange(len(segment.coded) + 1)
        piece = chance.choice(
            (b"", chance.randbytes(chance.randint(1, 20)), bytes(40), b"\xff\0" * 9, b"\xff" * 5)
        )
        segment.coded = (
            segment.coded[:at] + piece + segment.coded[at + chance.choice((0, len(piece), 10**6)) :]
        )


def _insert(chance: random.Random, segments: list[Segment]) -> None:
    kind = chance.choice(
        ("DNL", "RST", "fill", "frame", "exif", "exif", "DRI", "comment", "DHP", "EXP", "adobe", "SOI")
    )
    new = Segment(0xFE, chance.randbytes(chance.choice((0, 1, 5, 60))))
    if kind == "DNL":
        new = Segment(0xDC, struct.pack(">H", any_number(chance, 16, 33)))
    elif kind == "RST":
        new = Segment(chance.randint(0xD0, 0xD7), None)
    elif kind == "fill":
        new = Segment(0xFF, None, b"\xff" * chance.choice((1, 2, 300)))
    elif kind == "frame":
        width, height = (chance.choice((1, 8, 16, 40, 1000, 65535)) for _ in range(2))
        factors = jpeg_files.any_factors(chance)
        marker = chance.choice(sorted(_FRAME_MARKERS))
        new = Segment(marker, jpeg_files.frame_header(marker, width, height, factors)[4:])
    elif kind == "exif":
        kind_of_value = chance.choice((1, 3, 3, 3, 4, 6, 8, 9))
        value = chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 100))
        block = bytearray(raster_files.exif(chance, value, kind_of_value, chance.choice("<>")))
        if chance.random() < 0.4:
            change_number(chance, block, chance.randrange(4, len(block)), chance.choice((1, 2, 4)))
        new = Segment(0xE1, b"Exif\0" + chance.choice((b"\0", b"\0", b"\xff")) + block)
    elif kind == "DRI":
        new = Segment(0xDD, struct.pack(">H", any_number(chance, 16, 1)))
    elif kind == "DHP":
        new = Segment(0xDE, jpeg_files.frame_header(0xDE, 40, 40, ((1, 1),) * 3)[4:])
    elif kind == "EXP":
        new = Segment(0xDF, b"\x11")
    elif kind == "adobe":
        new = Segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([chance.choice((0, 1, 2, 3, 255))]))
    elif kind == "SOI":
        new = Segment(0xD8, None)
    segments.insert(chance.randint(0 if chance.random() < 0.05 else 1, len(segments)), new)


_JPEG_CHANGES: tuple[Callable[[random.Random, list[Segment]], None], ...] = (
    *(
        _change_frame_type,
        _change_frame,
        _change_frame,
        _change_frame,
        _change_scan,
        _change_table,
        _change_table,
    ),
    *(
        _change_length,
        _change_marker,
        _repeat,
        _repeat_scans,
        _drop,
        _swap,
        _cut_coded,
        _cut_coded,
        _insert,
        _insert,
    ),
)
