"""Progress bar of long commands, on standard error."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.cli.output import LiteralConsole


def progress_bar() -> Progress:
    """Return a progress bar with description, count, total and time left.

    It is hidden if standard error is not a terminal.
    """
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
