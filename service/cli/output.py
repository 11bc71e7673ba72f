"""Output of the command line: consoles that take text literally, the width of tables, large numbers."""

from __future__ import annotations

import io
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from service.text.display import shown

_PIPED_WIDTH = 160


class LiteralConsole(Console):
    """A console that takes no text for markup or emoji codes and escapes control characters in it."""

    def __init__(self, **options: Any) -> None:
        """`options`: those of rich's Console."""
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make rich's text of a string; every string in a table or a line comes through here."""
        return super().render_str(shown(text, keep="\n"), **options)


def console() -> Console:
    """A console for tables on standard output: as wide as the terminal, in a pipe wide enough for them."""
    return LiteralConsole(width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def styled(*parts: str | tuple[str, str]) -> Text:
    """A line of literal parts, each alone or with its style."""
    pairs = (part if isinstance(part, tuple) else (part, "") for part in parts)
    return Text.assemble(*((shown(text), style) for text, style in pairs))


def say(line: str, *, error: bool = False) -> None:
    """Print one line, control characters escaped, to standard output or standard error."""
    print(shown(line), file=sys.stderr if error else sys.stdout)


def print_anything() -> None:
    """Show characters that standard output cannot encode as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def millions(count: int) -> str:
    """A count in millions, with three significant digits, "860 M" or "4.52 M"; whole millions from 100 on."""
    value = count / 1e6
    return f"{value:.0f} M" if value >= 100 else f"{value:.3g} M"
