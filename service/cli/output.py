"""Where tables go, the terminal at its own width, a pipe or a file at one that fits every column; and how
large numbers stand in them."""

from __future__ import annotations

import sys

from rich.console import Console

_PIPED_WIDTH = 160


def console() -> Console:
    """A console for standard output."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def millions(count: int) -> str:
    """A count in millions, with three significant digits, "860 M" or "4.52 M"; whole millions from 100 on."""
    value = count / 1e6
    return f"{value:.0f} M" if value >= 100 else f"{value:.3g} M"
