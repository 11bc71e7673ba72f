"""Text from outside: shown without effect on the terminal, and lists of names."""

from __future__ import annotations

import re

# control characters, separators of lines and paragraphs, marks that change the direction, lone surrogates
_UNSHOWN = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(text: object, *, keep: str = "") -> str:
    r"""Return text for a terminal: control characters and terminal escapes as `\x1b`, except those in `keep`.

    A byte of a file name that is no UTF-8 is shown as `\x80`.
    """
    return _UNSHOWN.sub(lambda match: _escape(match[0], keep), str(text))


def quoted(value: bytes) -> str:
    """Return the first 60 bytes of what a client sent, quoted and escaped."""
    return repr(value[:60].decode("latin-1"))


def _escape(char: str, keep: str) -> str:
    if char in keep:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds an undecodable byte
        code -= 0xDC00
    return _SHORT.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def without_surrogates(text: str) -> str:
    r"""Return the name of a file as Unicode: a byte that is no UTF-8 is written as `\x80`."""
    return re.sub("[\ud800-\udfff]", lambda match: _escape(match[0], ""), text)


def encodable(text: str) -> bool:
    """Whether the text is Unicode: the name of a file that is no UTF-8 is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def comma_list(text: str) -> list[str]:
    """Return the items of a list separated by commas, without blanks around them and without empty ones."""
    return [item.strip() for item in text.split(",") if item.strip()]
