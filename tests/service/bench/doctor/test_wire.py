"""The wire format: what is written is read, and nothing but Malformed comes of other bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bench.doctor.wire import Malformed, field, fields, signed, varints

NUMBERS = st.integers(1, 2**29 - 1)
VALUES = st.integers(0, 2**64 - 1) | st.binary(max_size=300)


@given(st.lists(st.tuples(NUMBERS, VALUES)))
def test_fields_come_out_as_they_went_in(written: list[tuple[int, int | bytes]]) -> None:
    message = b"".join(field(number, value) for number, value in written)
    read = [
        (number, value if isinstance(value, int) else bytes(value))
        for number, value in fields(memoryview(message))
    ]
    assert read == written


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_malformed(data: bytes) -> None:
    try:
        for number, value in fields(memoryview(data)):
            assert number > 0
            assert isinstance(value, int) or len(value) <= len(data)
    except Malformed:
        pass


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x80", "cut off"),
        (b"\x0a\x05abc", "longer than"),
        (b"\x0b", "wire type 3"),
        (b"\x00\x01", "number 0"),
        (b"\xff" * 11, "ten bytes"),
        (b"\x0d\x01", "longer than"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, what: str) -> None:
    with pytest.raises(Malformed, match=what):
        list(fields(memoryview(data)))


def test_fixed_width_numbers_are_skipped_over_whole() -> None:
    message = b"\x0d\x01\x02\x03\x04" + b"\x11" + b"12345678" + b"\x18\x07"
    assert [(n, v if isinstance(v, int) else bytes(v)) for n, v in fields(memoryview(message))] == [
        (1, b"\x01\x02\x03\x04"),
        (2, b"12345678"),
        (3, 7),
    ]


def test_negative_numbers_and_packed_lists() -> None:
    assert signed(2**64 - 1) == -1
    assert signed(5) == 5
    assert list(varints(memoryview(b"\x01\xac\x02"))) == [1, 300]
