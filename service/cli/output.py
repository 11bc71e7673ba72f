"""Where tables go: the terminal at its own width, a pipe or a file at one that fits every column."""

from __future__ import annotations

import sys

from rich.console import Console

_PIPED_WIDTH = 160


def console() -> Console:
    """A console for standard output."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
