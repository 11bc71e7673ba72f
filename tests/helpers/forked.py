"""Run `weighin` in a process of its own, forked from one that has imported the program.

It does what a new interpreter does after its imports, which take more than a second of CPU time. Options of
the interpreter and its locale are those of the tests.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TextIO

from service.cli import main
from tests.helpers.process import ServiceProcess, environment, until_killed

P = ParamSpec("P")

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        __name__,
        "service.app",
        *(f"service.cli.{name}" for name in ("serve", "models", "doctor", "gate", "report")),
    ]
)


CLOSED = -1
"""Stands for the file descriptor of a stream that is closed, as after `2>&-` in a shell."""


class ForkedProcess:
    """A command that runs; it has what tests use of `subprocess.Popen`. `stderr`: its standard error."""

    def __init__(
        self,
        arguments: Sequence[str],
        variables: Mapping[str, str],
        stdout: int,
        *,
        stderr: int | None = None,
        largest_file: int = resource.RLIM_INFINITY,
    ) -> None:
        """Start it, with the file descriptor `stdout` as its standard output.

        `stderr`: that of its standard error, or CLOSED for none; by default, a pipe. `largest_file`: bytes
        to which it can write a file, which stands for a full disk.
        """
        reader, writer = os.pipe()
        self.stderr: TextIO | None = os.fdopen(reader)
        errors = writer if stderr is None else stderr
        with ExitStack() as stack:
            stack.callback(os.close, writer)
            streams = [
                None if each == CLOSED else stack.enter_context(Connection(os.dup(each), readable=False))
                for each in (stdout, errors)
            ]
            self._process = _CONTEXT.Process(
                target=_run, args=(list(arguments), dict(variables), streams, largest_file), daemon=True
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return its exit code."""
        self._process.join(timeout)
        code = self.poll()
        assert code is not None, f"it still runs after {timeout} s"
        return code

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, sig)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


@contextmanager
def forked_service(models_dir: Path, data_dir: Path, **settings: object) -> Iterator[ServiceProcess]:
    """Start `weighin serve`; kill it at the end if it still runs."""
    started = ForkedProcess(("serve",), environment(models_dir, data_dir, **settings), stdout=2)
    with until_killed(started) as process:
        yield process


def run_forked(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    stdout: int | None = None,
    *,
    stderr: int | None = None,
    largest_file: int = resource.RLIM_INFINITY,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with these environment variables; return how it ended and what it wrote.

    `stdout`: a file descriptor that standard output goes to instead. `stderr`, `largest_file`: as in
    `ForkedProcess`.
    """
    with tempfile.TemporaryFile() as out:
        process = ForkedProcess(
            arguments,
            variables,
            out.fileno() if stdout is None else stdout,
            stderr=stderr,
            largest_file=largest_file,
        )
        assert process.stderr is not None
        with process.stderr:
            errors = process.stderr.buffer.read()
        code = process.wait(60)
        out.seek(0)
        return subprocess.CompletedProcess(list(arguments), code, out.read(), errors)


def call_forked(function: Callable[P, str], *arguments: P.args, **named: P.kwargs) -> str:
    """Return what a module's function returns in a process that has imported the program and little else."""
    reader, writer = _CONTEXT.Pipe(duplex=False)
    with reader:
        with writer:
            process = _CONTEXT.Process(target=_answer, args=(writer, function, arguments, named), daemon=True)
            process.start()
        try:
            answer: str = reader.recv()
        except EOFError:
            raise AssertionError("the function raised an error") from None
        process.join(60)
    assert process.exitcode == 0
    return answer


def _answer(
    writer: Connection, function: Callable[..., str], arguments: Sequence[Any], named: Mapping[str, Any]
) -> None:
    """In the forked process, call the function."""
    with writer:
        writer.send(function(*arguments, **named))


def _run(
    arguments: list[str], variables: dict[str, str], streams: list[Connection | None], largest_file: int
) -> None:
    """In the forked process, run the command."""
    for number, stream in enumerate(streams, 1):
        if stream is None:
            os.close(number)
        else:
            with stream:
                os.dup2(stream.fileno(), number)
    os.environ.clear()
    os.environ.update(variables)
    encoding = variables.get("PYTHONIOENCODING", "utf-8")
    out, err = streams
    sys.stdout = sys.stderr = None  # as in an interpreter whose streams are closed
    if out is not None:
        sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    if err is not None:
        sys.stderr = open(2, "w", 1, encoding, "backslashreplace", closefd=False)  # noqa: SIM115
    if largest_file != resource.RLIM_INFINITY:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = ["weighin", *arguments]
    try:
        main()
    finally:
        _flush_as_at_exit()


def _flush_as_at_exit() -> None:
    """End with code 120 if standard output or error cannot take what is left, as an interpreter does."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            os._exit(120)
