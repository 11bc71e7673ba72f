"""Escape untrusted text for terminals and messages, and format numbers and lists of names."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

# control characters, line and paragraph separators, bidirectional marks, lone surrogates, and invisible
# characters, except for the joiners U+200C and U+200D, which emoji and some scripts need
_UNSHOWN = re.compile(
    "[\0-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069"
    "\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_MOST_JOINED = 3
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(text: object, *, keep: str = "") -> str:
    r"""Return `text` with control characters, such as terminal escapes, written like `\x1b`.

    Characters in `keep` stay as they are. Bytes of a file name that are not UTF-8 are written like `\x80`.
    """
    return _UNSHOWN.sub(lambda match: _escape(match[0], keep), str(text))


def quoted(value: bytes) -> str:
    """Return the first 60 bytes of input from a client, in quotes and escaped."""
    return repr(value[:60].decode("latin-1"))


def _escape(char: str, keep: str) -> str:
    if char in keep:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # an undecodable byte (PEP 383, `surrogateescape`)
        code -= 0xDC00
    return _SHORT.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def without_surrogates(text: str) -> str:
    r"""Return a file name as valid Unicode: bytes that are not UTF-8 are written like `\x80`."""
    return re.sub("[\ud800-\udfff]", lambda match: _escape(match[0], ""), text)


def encodable(text: str) -> bool:
    """Return whether `text` can be encoded as UTF-8; a file name with bytes that are not UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def in_markdown(text: str) -> str:
    """Return `text` as one line of Markdown that displays it literally: special characters are escaped."""
    return re.sub(r"([\\`*_~|\[\]#@])", r"\\\1", html.escape(shown(text), quote=False))


def counted(count: int, one: str, several: str) -> str:
    """Return a number with its noun in singular or plural: "1 class", "2 classes"."""
    return f"{count} {one if count == 1 else several}"


def joined(names: Sequence[str]) -> str:
    """Join names for a sentence, such as "a, b and c"; five names become "a, b, c and 2 others"."""
    more = len(names) - _MOST_JOINED
    listed = [*names[:_MOST_JOINED], *([counted(more, "other", "others")] if more > 0 else [])]
    return " and ".join(filter(None, (", ".join(listed[:-1]), *listed[-1:])))


def comma_list(text: str) -> list[str]:
    """Split a comma-separated list; items are stripped, and empty items are dropped."""
    return [item.strip() for item in text.split(",") if item.strip()]
