"""Output of the command line: literal consoles, table widths, formatted numbers, JSON."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from models.zoo.files import write_whole
from service.errors import InvalidParameter, error_words
from service.text.display import shown

_PIPED_WIDTH = 160

STANDARD_OUTPUT = Path("-")
"""The FILE of `--json FILE` that stands for standard output, which then gets no table."""

JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Also write the result to this file as JSON; '-': to standard output, instead of the table",
    ),
]


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


def print_whole(console: Console, table: Table) -> None:
    """Print a table at its full width: lines may wrap, but no cell is cut off."""
    table_width = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    console_width, console.width = console.width, max(table_width, console.width)
    try:
        console.print(table)
    finally:
        console.width = console_width


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return a line of literal parts, each a string or a pair of string and style."""
    pairs = (part if isinstance(part, tuple) else (part, "") for part in parts)
    return Text.assemble(*((shown(text), style) for text, style in pairs))


def say(line: str, *, error: bool = False) -> None:
    """Print a line to standard output or standard error, control characters escaped."""
    print(shown(line), file=sys.stderr if error else sys.stdout)


def check_target(path: Path, option: str, inputs: Collection[Path] = ()) -> None:
    """Raise InvalidParameter if the file of `option` cannot be written; call it before long work.

    `inputs`: files that the command reads, which must not be overwritten.
    """
    if path == STANDARD_OUTPUT:
        return
    try:
        if path.is_dir():
            raise InvalidParameter(f"{option} {path}: is a folder (allowed: a file, or '-')")
        if any(_same_file(path, read) for read in inputs):
            raise InvalidParameter(f"{option} {path}: is an input of this command (allowed: another file)")
        if _is_special(path):
            if not os.access(path, os.W_OK):
                raise InvalidParameter(f"{option} {path}: cannot be written: permission denied")
            return
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise InvalidParameter(f"{option} {path}: folder not found")
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"):
            pass  # it can be written
    except OSError as error:
        raise InvalidParameter(f"{option} {path}: cannot be written: {error_words(error)}") from None


def write_json(path: Path, content: BaseModel | str) -> None:
    """Write a JSON document to the file of `--json`, as `write_document` does."""
    write_document(
        path, content if isinstance(content, str) else content.model_dump_json(indent=2) + "\n", "--json"
    )


def write_document(path: Path, text: str, option: str) -> None:
    """Write a document in UTF-8 to the file of `option`, whole or not at all, or to standard output.

    Raises InvalidParameter if it cannot be written: the disk is full, or the reader of the pipe is gone.
    """
    if path == STANDARD_OUTPUT:
        print_document(text)
        return
    try:
        if _is_special(path):
            path.write_bytes(text.encode())
        else:
            write_whole(Path(os.path.realpath(path)), text.encode())
    except OSError as error:
        raise InvalidParameter(f"{option} {path}: cannot be written: {error_words(error)}") from None
    say(f"written to {path}", error=True)


def print_document(text: str) -> None:
    """Print a document to standard output in UTF-8, whatever the locale. Raises InvalidParameter."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # else Python fails once more when it flushes the rest at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise InvalidParameter(f"standard output: cannot be written: {error_words(error)}") from None


def _is_special(path: Path) -> bool:
    """Return whether `path` is a device or a pipe, which is written to and never replaced."""
    return path.exists() and not path.is_file()


def _same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def escape_unencodable() -> None:
    """Write characters that standard output cannot encode as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def millions(count: int) -> str:
    """Format a count in millions with three significant digits: "860 M", "4.52 M"."""
    value = count / 1e6
    return f"{value:.0f} M" if value >= 100 else f"{value:.3g} M"


@contextlib.contextmanager
def stop_on_signals() -> Iterator[tuple[threading.Event, list[int]]]:
    """Yield an event that SIGINT and SIGTERM set, and the list of received signals.

    A second signal ends the process.
    """
    stop = threading.Event()
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        stop.set()
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop, received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
