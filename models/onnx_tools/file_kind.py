"""Recognise files of other kinds that are mistaken for ONNX files, by their signature."""

from __future__ import annotations

_AGAIN = "download it again"
_EXPORT = "export the model to ONNX"

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (4, b"TFL3", f"a TensorFlow Lite model: {_EXPORT}, e.g. with tf2onnx"),
    (4, b"ORTM", "a model in ONNX Runtime's own format: save it as an ONNX file"),
    (0, b"PK\x03\x04", f"a zip archive, e.g. a PyTorch checkpoint (.pt) or a Keras model: {_EXPORT}"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x89HDF\r\n\x1a\n", f"an HDF5 file, e.g. a Keras model (.h5): {_EXPORT}"),
    (0, b"GGUF", f"a GGUF file: {_EXPORT}"),
    (0, b"ftrt", "a TensorRT engine, which runs on one GPU only: take the ONNX file that it was built from"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it"),
    (0, b"BZh", "a bzip2 archive: unpack it"),
    (0, b"\xfd7zXZ\x00", "an xz archive: unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive: unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it"),
    (257, b"ustar", "a tar archive: unpack it"),
    (8, b'{"', f"a safetensors file, weights without a network: {_EXPORT}"),
    (0, b"\x93NUMPY", f"a NumPy array: {_EXPORT}"),
    (0, b"\x89PNG", f"a PNG image: {_AGAIN}"),
    (0, b"\xff\xd8\xff", f"a JPEG image: {_AGAIN}"),
    (0, b"%PDF", f"a PDF document: {_AGAIN}"),
)
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_ONNX_FIRST = b"\x08"  # the field `ir_version`, which every writer of ONNX files puts first


def file_kind(content: bytes) -> str | None:
    """Return, in words, what kind of file `content` is, with advice on what to do.

    Return None if `content` is an ONNX file or of an unknown kind.
    """
    if not content:
        return f"empty: {_AGAIN}"
    if content.startswith(_ONNX_FIRST) and content[4:8] != b"ORTM":
        return None
    for offset, signature, kind in _SIGNATURES:
        if content.startswith(signature, offset):
            return kind
    if content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return f"a Python pickle, e.g. a PyTorch checkpoint (.pth): {_EXPORT}"
    return _text_kind(content[:1000])


def what_it_is(content: bytes) -> str | None:
    """Return, in words, why a file cannot be loaded: it is of another kind, or it is truncated.

    Return None if the reason is unknown.
    """
    kind = file_kind(content)
    if kind is not None:
        return f"its file is not an ONNX file, it is {kind}"
    if looks_truncated(content):
        return f"its file is cut off after {len(content)} bytes: download it again"
    return None


def _text_kind(beginning: bytes) -> str | None:
    for mark in _MARKS:
        beginning = beginning.removeprefix(mark)
    text = beginning.replace(b"\0", b"").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--")):
        return f"an HTML page, e.g. a site's error or login page: {_AGAIN}"
    if text.startswith(b"<") and b">" in text:
        return f"an XML document: {_AGAIN}"
    if text.startswith((b"{", b"[")):
        return f"JSON text, e.g. an error from where it was downloaded: {_AGAIN}"
    if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text):
        first_line = text.decode().splitlines()[0][:40].strip()
        return f"text ('{first_line}'): {_AGAIN}"
    return None


def looks_truncated(content: bytes) -> bool:
    """Return whether an ONNX file ends inside one of its outermost fields."""
    offset = 0
    while offset < len(content):
        key, offset = read_varint(content, offset)
        match key & 7:
            case 0:
                _, offset = read_varint(content, offset)
            case 1:
                offset += 8
            case 2:
                length, offset = read_varint(content, offset)
                offset += length
            case 5:
                offset += 4
            case _:
                return False
    return offset > len(content)


def read_varint(content: bytes, offset: int) -> tuple[int, int]:
    """Return the number that begins at `offset`, and the offset after it.

    If the number is truncated, the returned offset is greater than the length of `content`.
    """
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(content):
            return 0, len(content) + 1
        value |= (content[offset] & 0x7F) << shift
        offset += 1
        if content[offset - 1] < 0x80:
            break
    return value, offset
