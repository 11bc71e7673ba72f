"""JPEGs with the faults of real cameras, editors and transfers: the pixels that Pillow gives, or an error."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.errors import UndecodableImage
from service.inference.decoding.decode import DecodedImage, decode
from tests.helpers import jpegs
from tests.helpers.photographs import astronaut

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow, the oracle, warns of odd files

KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "baseline": ("RGB", {}),
    "restarts": ("RGB", {"restart_marker_blocks": 7}),
    "progressive": ("RGB", {"progressive": True}),
    "grey": ("L", {}),
    "grey progressive": ("L", {"progressive": True}),
    "cmyk": ("CMYK", {}),
    "cmyk progressive": ("CMYK", {"progressive": True}),
    "full colour": ("RGB", {"subsampling": "4:4:4"}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def picture(kind: str = "baseline", width: int = 150, height: int = 110) -> bytes:
    mode, options = KINDS[kind]
    image = Image.fromarray(astronaut()).resize((width, height)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def read(data: bytes, shorter_side: int = 110) -> DecodedImage:
    return decode(data, shorter_side=shorter_side, max_pixels=1_000_000)


def as_pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def after_start(data: bytes, addition: bytes) -> bytes:
    return data[:2] + addition + data[2:]


def with_scan_parameters(data: bytes, parameters: bytes) -> bytes:
    scan = jpegs.offset_of(data, 0xDA)
    end = scan + 5 + 2 * data[scan + 4]
    return data[:end] + parameters + data[end + 3 :]


def with_jfif_version(data: bytes, major: int, minor: int) -> bytes:
    jfif = jpegs.segment(0xE0, b"JFIF\0" + bytes([major, minor, 0, 0, 1, 0, 1, 0, 0]))
    if data[6:11] == b"JFIF\0":
        return data[:11] + bytes([major, minor]) + data[13:]
    return after_start(data, jfif)


ODDITIES: dict[str, Callable[[bytes], bytes]] = {
    "JFIF 0.02": lambda data: with_jfif_version(data, 0, 2),
    "JFIF 2.01": lambda data: with_jfif_version(data, 2, 1),
    "JFIF 255.255": lambda data: with_jfif_version(data, 255, 255),
    "fill bytes": lambda data: after_start(data, b"\xff" * 10_000),
    "stray bytes": lambda data: after_start(data, jpegs.segment(0xFE, b"made up") + bytes(10_000)),
    "a comment that says it ends": lambda data: after_start(data, jpegs.segment(0xFE, b"\xff\xd9\xff\xda")),
    "a broken colour profile": lambda data: after_start(
        data, jpegs.segment(0xE2, b"ICC_PROFILE\0\x02\x01" + bytes(40))
    ),
    "half a colour profile": lambda data: after_start(
        data, jpegs.segment(0xE2, b"ICC_PROFILE\0\x01\x03" + bytes(400))
    ),
    "broken EXIF": lambda data: after_start(data, jpegs.segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff")),
    "padding before the end": lambda data: data[:-2] + bytes(100) + data[-2:],
    "a few bytes before the end": lambda data: data[:-2] + b"\x12\x34\x56" + data[-2:],
    "fill bytes before the end": lambda data: data[:-2] + b"\xff" * 100 + data[-2:],
    "a video behind it": lambda data: data + b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x08\xff\xc3" * 2000,
    "a second picture behind it": lambda data: data + data,
    "half a picture behind it": lambda data: data + data[: len(data) // 2],
    "no end marker": lambda data: data[:-2],
    "half an end marker": lambda data: data[:-1],
    "zeros instead of an end marker": lambda data: data[:-2] + bytes(50),
    "a comment behind the scans": lambda data: data[:-2] + jpegs.segment(0xFE, b"made up") + data[-2:],
    "all of it at once": lambda data: with_jfif_version(
        after_start(data, b"\0\0" + jpegs.segment(0xE2, b"ICC_PROFILE\0\x02\x01\0") + b"\xff\xff"), 9, 9
    )[:-2],
}


@every_kind
@pytest.mark.parametrize("oddity", ODDITIES)
def test_harmless_deviations_cost_no_pixel(kind: str, oddity: str) -> None:
    sound = picture(kind)
    odd = ODDITIES[oddity](sound)
    assert odd != sound
    np.testing.assert_array_equal(read(odd).pixels, read(sound).pixels)
    for shorter_side in (55, 18, 9):
        np.testing.assert_array_equal(read(odd, shorter_side).pixels, read(sound, shorter_side).pixels)


@every_kind
def test_pixels_are_those_of_pillow(kind: str) -> None:
    data = picture(kind)
    np.testing.assert_array_equal(read(data).pixels, as_pillow(data))


@pytest.mark.parametrize("parameters", [b"\0\0\0", b"\0\x3e\0", b"\x01\x3f\0", b"\0\x3f\x11"])
@pytest.mark.parametrize("kind", ["baseline", "restarts", "grey", "cmyk"])
def test_unused_scan_parameters_are_ignored(kind: str, parameters: bytes) -> None:
    sound = picture(kind)
    np.testing.assert_array_equal(read(with_scan_parameters(sound, parameters)).pixels, read(sound).pixels)


@pytest.mark.parametrize(("kind", "components", "transform"), [("baseline", 3, 1), ("cmyk", 4, 2)])
def test_unknown_colour_transform_as_in_libjpeg(kind: str, components: int, transform: int) -> None:
    def with_transform(value: int) -> bytes:
        adobe = jpegs.segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([value]))
        kept = [part for marker, _, part in jpegs.segments(data) if marker not in (0xE0, 0xEE)]
        rest = data[jpegs.offset_of(data, 0xDA) + len(kept[-1]) :]
        return data[:2] + adobe + b"".join(kept) + rest

    data = picture(kind)
    assert data[jpegs.offset_of(data, 0xC0) + 9] == components
    np.testing.assert_array_equal(read(with_transform(7)).pixels, read(with_transform(transform)).pixels)
    np.testing.assert_array_equal(read(with_transform(7)).pixels, as_pillow(with_transform(7)))


def test_repeated_scans() -> None:
    data = picture("progressive")
    scan = jpegs.offset_of(data, 0xDA)
    end = next(at for at in range(scan + 2, len(data)) if data[at] == 0xFF and data[at + 1] == 0xC4)
    twice = data[:end] + data[scan:end] + data[end:]
    np.testing.assert_array_equal(read(twice).pixels, as_pillow(twice))


def scan_ends(data: bytes) -> list[int]:
    """Return the offset of the end of each scan's coded data."""
    ends, at = [], jpegs.offset_of(data, 0xDA)
    while at < len(data) - 2:
        if data[at] == 0xFF and data[at + 1] == 0xDA:
            at += 2
            while not (data[at] == 0xFF and data[at + 1] not in (0, *range(0xD0, 0xD8))):
                at += 1
            ends.append(at)
        at += 1
    return ends


@pytest.mark.parametrize("kind", ["progressive", "grey progressive", "cmyk progressive"])
def test_a_progressive_jpeg_cut_between_scans(kind: str) -> None:
    data = picture(kind)
    ends = scan_ends(data)
    assert len(ends) > 4
    assert data[ends[-1] :] == b"\xff\xd9"
    for end in ends[:-1]:
        for cut in (data[:end], data[: end + 1], data[: end + 3], data[: end + 12]):
            with pytest.raises(UndecodableImage):
                read(cut)


@every_kind
@pytest.mark.parametrize(
    "oddity", ["JFIF 0.02", "a broken colour profile", "no end marker", "all of it at once"]
)
def test_damage_is_detected_beside_a_deviation(kind: str, oddity: str) -> None:
    data = bytearray(picture(kind))
    middle = (jpegs.offset_of(bytes(data), 0xDA) + len(data)) // 2
    data[middle : middle + 200] = bytes(range(200))
    for damaged in (bytes(data), ODDITIES[oddity](bytes(data))):
        with pytest.raises(UndecodableImage):
            read(damaged)


@every_kind
def test_truncated_jpeg_with_an_end_marker_added(kind: str) -> None:
    data = picture(kind)
    if "progressive" in kind:
        end = scan_ends(data)[2]
        data = data[: end - 30]  # within a scan: between scans such a file is whole, only coarser
    for length in (len(data) - 60, (jpegs.offset_of(data, 0xDA) + len(data)) // 2):
        with pytest.raises(UndecodableImage):
            read(data[:length] + b"\xff\xd9")


def test_exif_in_several_segments_is_one_block() -> None:
    entries = struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    start = b"II*\0" + struct.pack("<I", 70_000)
    block = start + bytes(70_000 - len(start)) + entries  # the directory lies in the second segment
    first, second = block[:65_000], block[65_000:]
    data = after_start(
        picture(), jpegs.segment(0xE1, b"Exif\0\0" + first) + jpegs.segment(0xE1, b"Exif\0\0" + second)
    )
    assert read(data).pixels.shape == (150, 110, 3)


def test_first_exif_block_is_used() -> None:
    def block(orientation: int) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        return jpegs.segment(0xE1, b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0"))

    xmp = jpegs.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    assert read(after_start(picture(), xmp + block(6) + block(1))).pixels.shape == (150, 110, 3)
    assert read(after_start(picture(), xmp + block(1) + block(6))).pixels.shape == (110, 150, 3)


def padded(data: bytes, padding: bytes, places: list[int] | None = None) -> bytes:
    """Insert `padding` after the coded data of all scans, or of those with the indices `places`."""
    ends = scan_ends(data)
    for place in sorted(range(len(ends)) if places is None else places, reverse=True):
        data = data[: ends[place]] + padding + data[ends[place] :]
    return data


@pytest.mark.parametrize("kind", ["progressive", "grey progressive", "cmyk progressive"])
@pytest.mark.parametrize("padding", [b"\0", bytes(4), bytes(40), b"\x12\x34"])
def test_padding_between_scans(kind: str, padding: bytes) -> None:
    sound = picture(kind)
    expected = read(sound).pixels
    for places in ([0], [2], [0, 3], *([None] if not any(padding) else [])):
        np.testing.assert_array_equal(read(padded(sound, padding, places)).pixels, expected)


@pytest.mark.parametrize("kind", ["progressive", "grey progressive"])
def test_damage_after_repeated_scans_is_detected(kind: str) -> None:
    data = picture(kind)
    ends = scan_ends(data)
    scan = jpegs.offset_of(data, 0xDA)
    for victim in range(1, len(ends)):
        length = ends[victim] - ends[victim - 1]
        if length < 200:
            continue
        damaged = data[: ends[victim] - length // 2] + data[ends[victim] :]
        twice = damaged[: ends[0]] + data[scan : ends[0]] + damaged[ends[0] :]
        with pytest.raises(UndecodableImage):
            read(twice)


@pytest.mark.parametrize("part", [0.1, 0.2, 0.3])
def test_truncated_jpeg_with_unnamed_subsampling(part: float) -> None:
    data = bytearray(picture("full colour"))
    data[jpegs.offset_of(bytes(data), 0xC0) + 11] = 0x31
    sound = bytes(data)
    first = jpegs.offset_of(sound, 0xDA)
    assert read(sound).pixels.shape == (110, 150, 3)
    with pytest.raises(UndecodableImage):
        read(sound[: first + int((len(sound) - first) * part)])


def test_missing_end_marker_before_another_image() -> None:
    sound = picture()
    np.testing.assert_array_equal(read(sound[:-2] + picture("grey")).pixels, read(sound).pixels)


@pytest.mark.parametrize("marker", [0xC9, 0xCA])
def test_arithmetic_codes_need_their_end_marker(marker: int) -> None:
    data = bytearray(picture("grey" if marker == 0xC9 else "grey progressive")[:-2])
    data[jpegs.offset_of(bytes(data), 0xC0, 0xC2) + 1] = marker
    with pytest.raises(UndecodableImage):
        read(bytes(data))


def test_markers_without_a_length_are_skipped() -> None:
    data = picture()
    comment = jpegs.segment(0xFE, b"made up")
    np.testing.assert_array_equal(
        read(after_start(data, comment + b"\xff\xd0" * 20_000)).pixels, read(data).pixels
    )


def test_scans_are_counted_within_the_image() -> None:
    data = picture("progressive")
    metadata = b"".join(jpegs.segment(0xEB, b"\xff\xda\0\x08" * 16_000) for _ in range(3))
    many = after_start(data, metadata) + b"\xff\xda\0\x08\x01\x01\x00\0\0\0" * 1000
    np.testing.assert_array_equal(read(many).pixels, read(data).pixels)
    ends = scan_ends(data)
    within = data[: ends[0]] + metadata + data[ends[0] :]
    np.testing.assert_array_equal(read(within).pixels, read(data).pixels)


@pytest.mark.parametrize("kind", ["grey progressive", "baseline"])
def test_too_many_scans_are_refused(kind: str) -> None:
    data = picture(kind)
    scan = jpegs.offset_of(data, 0xDA)
    header = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"
    # In a sequential JPEG more scans may follow only where the first one has not all components.
    data = data[:scan] if kind == "baseline" else data[:-2]
    with pytest.raises(UndecodableImage, match="more than 100 scans"):
        read(data + header * 2000 + b"\xff\xd9")


def test_a_second_frame_header_is_refused() -> None:
    data = bytearray(picture("grey"))
    frame = jpegs.offset_of(bytes(data), 0xC0)
    second = jpegs.segment(0xCF, struct.pack(">BHHB", 8, 65535, 65535, 1) + b"\x01\x14\0")
    for at in (frame, frame + 13):  # before the other, behind it
        assert data[frame + 13] == 0xFF
        with pytest.raises(UndecodableImage):
            read(bytes(data[:at] + second + data[at:]))


def test_pillow_fallback_checks_the_header_size() -> None:
    data = bytearray(picture("full colour"))
    data[jpegs.offset_of(bytes(data), 0xC0) + 11] = 0x31  # a subsampling that TurboJPEG has no name for
    scan = jpegs.offset_of(bytes(data), 0xDA)
    larger = jpegs.segment(0xC0, struct.pack(">BHHB", 8, 65535, 65535, 1) + b"\x01\x11\0")
    with pytest.raises(UndecodableImage):
        read(bytes(data[:scan] + larger + data[scan:]))


def test_scans_after_a_complete_image_cost_nothing() -> None:
    data = picture("baseline")[:-2]
    assert len(data) < 20_000
    with pytest.raises(UndecodableImage):
        read(data + b"\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11\0\x3f\0" * 100_000)
