"""Output of the command line: literal consoles, table widths, formatted numbers, JSON."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from models.zoo.display import shown
from models.zoo.files import write_whole
from service.errors import InvalidParameter, error_words

_PIPED_WIDTH = 160

CANCELLED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""

STANDARD_OUTPUT = Path("-")
"""Value of FILE in `--json FILE` that means standard output. No table is printed then."""

JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Also write the result to this file as JSON; '-': to standard output, and print no table",
    ),
]


class LiteralConsole(Console):
    """Console that prints text literally: no markup, no emoji codes, control characters escaped."""

    def __init__(self, **options: Any) -> None:
        """Open the console with `options`, the keyword arguments of rich's Console."""
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape a string and convert it to rich's Text. Rich calls this for every string that it prints."""
        return super().render_str(shown(text, keep="\n"), **options)


def console(**options: Any) -> Console:
    """Return a console on standard output. It is as wide as the terminal; in a pipe, 160 columns wide."""
    return LiteralConsole(width=None if sys.stdout.isatty() else _PIPED_WIDTH, **options)


def print_whole(console: Console, table: Table) -> None:
    """Print a table at its full width. The terminal may wrap its lines, but no cell is cut off."""
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
    """Print a line to standard output or standard error, with control characters escaped."""
    print(shown(line), file=sys.stderr if error else sys.stdout)


def check_target(path: Path, option: str, inputs: Collection[Path] = ()) -> None:
    """Raise InvalidParameter if the file of `option` cannot be written. Call this before long work.

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
            pass  # the file can be written
    except OSError as error:
        raise InvalidParameter(f"{option} {path}: cannot be written: {error_words(error)}") from None


def write_json(path: Path, content: BaseModel | str) -> None:
    """Write a JSON document to the file of `--json`, as `write_document` does."""
    write_document(
        path, content if isinstance(content, str) else content.model_dump_json(indent=2) + "\n", "--json"
    )


def write_document(path: Path, text: str, option: str) -> None:
    """Write a document in UTF-8 to the file `path`, or to standard output.

    `option`: the name of the option that gave the path, for messages. A file is written completely or not at
    all. Raises InvalidParameter if writing fails, for example because the disk is full or the reader of a
    pipe has ended.
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
        with contextlib.suppress(OSError):  # otherwise Python fails again when it flushes the rest at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise InvalidParameter(f"standard output: cannot be written: {error_words(error)}") from None


class UnbreakableStream(io.RawIOBase):
    """Raw stream that writes to another stream, and drops what cannot be written, e.g. if the disk is full.

    `error`: error of the first write that failed; None if everything was written.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether the stream to which this one writes is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the file descriptor of the stream to which this one writes.

        Raises OSError if the stream has no file descriptor.
        """
        return self._stream.fileno()

    def write(self, data: Any) -> int:
        """Write bytes, or drop them. Return the number of bytes that were written or dropped."""
        try:
            buffer = self._stream.buffer  # type: ignore[attr-defined]
            written = getattr(buffer, "raw", buffer).write(data)  # a buffer would keep the rest until exit
            if written is None:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        except ValueError:  # the other stream is closed
            self.error = self.error or OSError(errno.EBADF, os.strerror(errno.EBADF))
        except OSError as error:
            self.error = self.error or error
        else:
            return int(written)
        return len(data)


@contextlib.contextmanager
def unbreakable_output() -> Iterator[UnbreakableStream]:
    """Context in which writing to standard output and standard error never fails.

    Yields the stream of standard output, whose `error` tells whether everything was written.
    """
    kept = sys.stdout, sys.stderr
    for stream in kept:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    raw = [UnbreakableStream(stream) for stream in kept]
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(each),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=True,
        )
        for each, stream in zip(raw, kept, strict=True)
    )
    try:
        yield raw[0]
    finally:
        sys.stdout, sys.stderr = kept


def _is_special(path: Path) -> bool:
    """Return whether `path` is a device or a pipe. Such a path is written to, never replaced by a file."""
    return path.exists() and not path.is_file()


def _same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def open_missing_output() -> None:
    """Open the null device as standard output or error, if the stream was closed when the process started.

    Otherwise the next file that is opened would get the stream's descriptor, and child processes would write
    their output into this file.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def escape_unencodable() -> None:
    """Make standard output and error write escapes for characters that they cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def millions(count: int) -> str:
    """Format a count in millions with three significant digits: "860 M", "4.52 M"."""
    value = count / 1e6
    return f"{value:.0f} M" if value >= 100 else f"{value:.3g} M"


@contextlib.contextmanager
def stop_on_signals() -> Iterator[tuple[threading.Event, list[int]]]:
    """Yield an event that is set by SIGINT or SIGTERM, and the list of received signals.

    If the same signal is received again, it ends the process.
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
