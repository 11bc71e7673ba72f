"""What long commands show on standard error while they run."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.cli.output import LiteralConsole

CANCELLED = 130
"""Exit code after Ctrl-C, as shells count it."""


def progress_bar() -> Progress:
    """A bar with how many of how many, the time left, and a word on what is happening; on terminals only."""
    console = LiteralConsole(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
