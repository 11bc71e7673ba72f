"""Escape untrusted text for terminals and messages, and split lists of names."""

from __future__ import annotations

import re

# control characters, line and paragraph separators, bidirectional marks, lone surrogates
_UNSHOWN = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(text: object, *, keep: str = "") -> str:
    r"""Return `text` with control characters and terminal escapes written as `\x1b`, except those in `keep`.

    Bytes of a file name that are not UTF-8 are written as `\x80`.
    """
    return _UNSHOWN.sub(lambda match: _escape(match[0], keep), str(text))


def quoted(value: bytes) -> str:
    """Return the first 60 bytes of a client's input, quoted and escaped."""
    return repr(value[:60].decode("latin-1"))


def _escape(char: str, keep: str) -> str:
    if char in keep:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # an undecodable byte (PEP 383, `surrogateescape`)
        code -= 0xDC00
    return _SHORT.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def without_surrogates(text: str) -> str:
    r"""Return a file name as valid Unicode: bytes that are not UTF-8 are written as `\x80`."""
    return re.sub("[\ud800-\udfff]", lambda match: _escape(match[0], ""), text)


def encodable(text: str) -> bool:
    """Return whether `text` can be encoded as UTF-8; names of files that are not UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def comma_list(text: str) -> list[str]:
    """Split a comma-separated list; items are stripped, empty ones are dropped."""
    return [item.strip() for item in text.split(",") if item.strip()]
