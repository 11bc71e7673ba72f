"""Output of the command line: literal consoles, table widths, formatted numbers."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from service.errors import InvalidParameter
from service.text.display import shown

_PIPED_WIDTH = 160


class LiteralConsole(Console):
    """Console that prints text literally: no markup, no emoji codes, control characters escaped."""

    def __init__(self, **options: Any) -> None:
        """`options`: keyword arguments of rich's Console."""
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to rich's Text, escaped; rich calls this for every string in tables and lines."""
        return super().render_str(shown(text, keep="\n"), **options)


def console(**options: Any) -> Console:
    """Return a console on standard output, as wide as the terminal; in a pipe, 160 columns."""
    return LiteralConsole(width=None if sys.stdout.isatty() else _PIPED_WIDTH, **options)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return a line of literal parts, each a string or a pair of string and style."""
    pairs = (part if isinstance(part, tuple) else (part, "") for part in parts)
    return Text.assemble(*((shown(text), style) for text, style in pairs))


def say(line: str, *, error: bool = False) -> None:
    """Print a line to standard output or standard error, control characters escaped."""
    print(shown(line), file=sys.stderr if error else sys.stdout)


def check_target(path: Path, option: str) -> None:
    """Raise InvalidParameter if the file of `option` cannot be written; call it before long work."""
    if path.is_dir():
        raise InvalidParameter(f"{option} {path}: is a folder")
    if not path.parent.is_dir():
        raise InvalidParameter(f"{option} {path}: folder not found")


def escape_unencodable() -> None:
    """Write characters that standard output cannot encode as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def millions(count: int) -> str:
    """Format a count in millions with three significant digits: "860 M", "4.52 M"."""
    value = count / 1e6
    return f"{value:.0f} M" if value >= 100 else f"{value:.3g} M"
