"""Parsing of forms in chunks of any size."""

from __future__ import annotations

import pytest

from service.api.body.parts import Part, Parts
from service.errors import MalformedRequest

PART = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nbytes\r\n--b--\r\n'


def parsed(body: bytes, size: int) -> list[tuple[str, bytes | None]]:
    """Return name and content of the parts of a body that arrives in chunks of `size` bytes."""
    form = Parts("multipart/form-data; boundary=b", {"image": 100})
    parts: list[Part] = []
    for start in range(0, len(body), size):
        form.feed(body[start : start + size])
        parts += form.finished()
    form.check_complete()
    return [(part.name, part.data) for part in parts]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "start", [b"", b"\r\n", b"\n\r\r\n\r\n", b"text\r\n", b"\rtext\r\n", b"\n-\r\n", b"\r\n--bc\r\n--\r\n"]
)
def test_lines_before_the_first_boundary(start: bytes, size: int) -> None:
    assert parsed(start + PART, size) == [("image", b"bytes")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("start", [b"text", b"\r\n\r\x0b", b"text\n", b"\r", b"\n"])
def test_boundary_inside_a_line(start: bytes, size: int) -> None:
    assert parsed(start + PART, size) == []  # the closing one is the first that does
    with pytest.raises(MalformedRequest):
        parsed(start + PART.replace(b"\r\n--b--", b""), size)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("space", [b"\r\n ", b"\r\n\t"])
def test_folded_header_field(size: int, space: bytes) -> None:
    with pytest.raises(MalformedRequest, match="a folded header field of a part"):
        parsed(PART.replace(b"; ", b";" + space), size)
    with pytest.raises(MalformedRequest, match="not a multipart form"):
        parsed(PART.replace(b"\r\n\r\n", b"\r\nA : b\r\n\r\n"), size)
