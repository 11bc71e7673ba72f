"""File signatures: detect supported image formats, and name unsupported content."""

from __future__ import annotations

import binascii
import re
from typing import Literal

Format = Literal["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heif"]

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_BRANDS_BYTES = 256
"""Number of bytes at the start of the file that are searched for brands."""

_CONVERT = "convert it to JPEG, PNG or WebP"
_SEND_BYTES = "send the bytes of the image itself"
_AS_BINARY = "read and send the file as bytes, without an encoding"
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", _CONVERT),
    (b"\xff\x0a", "JPEG XL", _CONVERT),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", _CONVERT),
    (b"\xff\x4f\xff\x51", "JPEG 2000", _CONVERT),
    (b"8BPS", "Photoshop document", _CONVERT),
    (b"FUJIFILMCCD-RAW", "camera raw file", _CONVERT),
    (b"IIU\0", "camera raw file", _CONVERT),
    (b"IIRO", "camera raw file", _CONVERT),
    (b"\x76\x2f\x31\x01", "OpenEXR", _CONVERT),
    (b"qoif", "QOI", _CONVERT),
    (b"DDS ", "DirectDraw surface", _CONVERT),
    (b"\0\0\1\0", "Windows icon", _CONVERT),
    (b"\0\0\2\0", "Windows cursor", _CONVERT),
    (b"icns", "macOS icon", _CONVERT),
    (b"%PDF-", "PDF document", "convert the page to JPEG, PNG or WebP"),
    (b"%!PS", "PostScript document", _CONVERT),
    (b"PK\3\4", "ZIP archive or Office document", "unpack it, and send one image"),
    (b"\x1f\x8b", "gzip-compressed data", f"{_SEND_BYTES}, unpacked"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video", "send one frame of it as an image"),
    (b"\0\0\1\xba", "MPEG video", "send one frame of it as an image"),
    (b"\0\0\1\xb3", "MPEG video", "send one frame of it as an image"),
    (b"7z\xbc\xaf\x27\x1c", "7z archive", "unpack it, and send one image"),
    (b"\xfd7zXZ\0", "xz-compressed data", f"{_SEND_BYTES}, unpacked"),
    (b"BZh", "bzip2-compressed data", f"{_SEND_BYTES}, unpacked"),
    (b"II\xbc\1", "JPEG XR", _CONVERT),
    (b"\xc3\xbf\xc3\x98\xc3\xbf", "JPEG decoded as text", _AS_BINARY),
    (b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "JPEG decoded as text", _AS_BINARY),
    (b"\xc2\x89PNG", "PNG decoded as text", _AS_BINARY),
    (b"\xef\xbf\xbdPNG", "PNG decoded as text", _AS_BINARY),
    (b"\x93NUMPY", "NumPy array", "encode it as PNG"),
)
_VIDEO_BOXES = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip"})
_PORTABLE_ANYMAP = re.compile(rb"P[1-7][ \t\r\n]")
_HTML_TAGS = rb"!doctype html|html|head|body|title|meta|script|style|center|div|h[1-6]|p"
_HTML = re.compile(rb"(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<(?:" + _HTML_TAGS + rb")\b", re.DOTALL)
_VIDEO = ("video (MP4 or QuickTime)", "send one frame of it as an image")
_HEIC = (
    "HEIC or HEIF",
    "convert it to JPEG, or install this service's extra 'heif' (pillow-heif)",
)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}")


def image_format(data: bytes) -> Format | None:
    """Return the image format that the file signature tells. Return None if the signature is unknown."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(_TIFF):
        return "tiff"
    # Text may start with BM too: check the size of the header that follows.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    brands = _brands(data)
    if brands & _AVIF_BRANDS:
        return "avif"
    if brands & _HEIF_BRANDS:
        return "heif"
    return None


def identify_unsupported(data: bytes) -> tuple[str, str] | None:
    """Return the name of unsupported content, and advice on what to send instead.

    Return None if the kind of the content is not recognized.
    """
    if data[4:8] in _VIDEO_BOXES:
        return _VIDEO
    if data.startswith(b"RIFF") and data[8:12] == b"AVI ":
        return "video (AVI)", _VIDEO[1]
    if data[257:262] == b"ustar":
        return "tar archive", "unpack it, and send one image"
    if _PORTABLE_ANYMAP.match(data):
        return "portable anymap (PBM, PGM, PPM)", _CONVERT
    for signature, name, advice in _SIGNATURES:
        if data.startswith(signature):
            return name, advice
    if image_format(data) == "heif":
        return _HEIC
    brands = _brands(data)
    if b"crx " in brands:
        return "camera raw file", _CONVERT
    if brands:
        return _VIDEO
    return _identify_text(_to_utf8(data[:2000]).lstrip())


def _brands(data: bytes) -> set[bytes]:
    """Return the brands of an ISO media file (ISO/IEC 14496-12), or an empty set for any other file."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4]), _BRANDS_BYTES)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


def _to_utf8(start: bytes) -> bytes:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return start[: len(start) // 2 * 2].decode("utf-16", "replace").encode()
    return start.removeprefix(b"\xef\xbb\xbf")


def _identify_text(start: bytes) -> tuple[str, str] | None:
    lower = start[:200].lower()
    if lower.startswith(b"data:"):
        return "data URL, probably base64", f"{_SEND_BYTES}, decoded"
    if lower.startswith((b"{", b"[", b'"')) or lower.rstrip() == b"null":
        return "JSON", f"{_SEND_BYTES}, and not base64 within JSON"
    if lower.startswith(b"image="):
        return "URL-encoded form", "send it as multipart/form-data, or the bytes alone"
    if lower.startswith(b"version https://git-lfs"):
        return "Git LFS pointer", "fetch the file itself with 'git lfs pull'"
    if _HTML.match(start.lower()):
        return "HTML page", f"{_SEND_BYTES}: the URL may have returned an error page"
    if lower.startswith(b"<") and b"<svg" in start.lower():
        return "SVG drawing", _CONVERT
    if lower.startswith(b"<"):
        return "XML", _SEND_BYTES
    if lower.startswith(b"--") and b"content-disposition" in start.lower():
        return "multipart form", "send it with the content type multipart/form-data and its boundary"
    if lower.startswith((b"http://", b"https://", b"file://")):
        return "URL", f"{_SEND_BYTES}: URLs are not fetched"
    encoded = _BASE64.match(start)
    if encoded is not None:
        text = encoded[0].translate(_URL_SAFE)
        decoded = binascii.a2b_base64(text[: len(text) // 4 * 4])
        if image_format(decoded) is not None:
            return "image in base64", f"{_SEND_BYTES}, decoded"
    return None
