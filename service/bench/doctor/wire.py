"""The wire format of protocol buffers: numbered fields in and out, nothing of any schema.

ONNX files are protocol buffers, and ONNX Runtime does not show a model's weights. The onnx package copies
them; here they are views into the file's bytes, which the doctor changes in place.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """The bytes are no message: cut off, or of another format."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message in the order in which they lie there, as (number, value).

    A value is an int (not negative: a negative int64 has its two's complement) or the bytes of a nested
    message, string, packed list or fixed-width number, uncopied. Raises Malformed.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise Malformed("a field has the number 0")
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise Malformed(f"a field has the unknown wire type {kind}")
        if at + length > len(message):
            raise Malformed("a field is longer than the message that holds it")
        yield number, message[at : at + length]
        at += length


def varints(packed: memoryview) -> Iterator[int]:
    """The numbers of a packed list. Raises Malformed."""
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def signed(value: int) -> int:
    """The int64 whose two's complement `value` is."""
    return value - (1 << 64) if value >= 1 << 63 else value


def field(number: int, value: int | str | bytes) -> bytes:
    """One field, to be joined with others to a message; ints must not be negative."""
    if isinstance(value, int):
        return _encoded(number << 3 | _VARINT) + _encoded(value)
    data = value.encode() if isinstance(value, str) else value
    return _encoded(number << 3 | _BYTES) + _encoded(len(data)) + data


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise Malformed("a number is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise Malformed("a number has more than ten bytes")


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
